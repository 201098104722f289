"""Principal components from products of rows: against scikit-learn's of all rows in one place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from components.principal import Floats, Krylov, Leading, block_width, leading, most_products, next_block


def table(rows: int, columns: int, *, seed: int, factors: int = 4) -> Floats:
    """Rows with a few strong factors, scaled as a training does."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=(rows, factors)) * np.linspace(1.0, 0.5, factors)
    found = shared @ random.normal(size=(factors, columns)) + random.normal(size=(rows, columns))
    scaled: Floats = (found - found.mean(axis=0)) / found.std(axis=0)
    return scaled


def told(parts: list[Floats], count: int, most: int) -> tuple[Krylov, Leading | None]:
    """Ask parts of the rows for products until `count` components are known or `most` products were told."""
    rows = sum(len(part) for part in parts)
    found, known = Krylov.begin(parts[0].shape[1]), None
    while known is None or not known.exact.all():
        block = next_block(found, min(block_width(count), most - found.told))
        if not block.shape[1]:
            break
        products = np.sum([part.T @ (part @ block) for part in parts], axis=0) / rows
        found = found.extended(block, products)
        known = leading(found, count)
    return found, known


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 6), cuts=st.lists(st.integers(1, 119), max_size=4))
def test_components_of_rows_at_several_sites_are_those_of_all_rows(seed: int, count: int, cuts: list[int]) -> None:
    whole = table(120, 40, seed=seed)
    parts = np.split(whole[np.random.default_rng(seed).permutation(120)], sorted(set(cuts)))
    found, known = told(parts, count, most=40)
    pooled = PCA(n_components=count, svd_solver="full").fit(whole)
    assert known is not None
    assert known.exact.all()
    signs = np.sign((known.vectors.T * pooled.components_).sum(axis=1))
    np.testing.assert_allclose(known.vectors.T * signs[:, None], pooled.components_, atol=1e-6)
    np.testing.assert_allclose(known.variances, pooled.explained_variance_ * 119 / 120, rtol=1e-9)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(found.told), atol=1e-9)


def test_of_thousands_of_columns_few_products_are_asked_for() -> None:
    whole = table(240, 3000, seed=1)
    found, known = told([whole[:80], whole[80:]], 4, most=most_products(80))
    pooled = PCA(n_components=4, svd_solver="full").fit(whole)
    assert known is not None
    assert found.told < 40
    np.testing.assert_allclose(np.abs((known.vectors.T * pooled.components_).sum(axis=1)), 1.0, atol=1e-12)


def test_what_the_sites_could_not_tell_is_called_so_and_has_nearly_the_same_variance() -> None:
    whole = np.random.default_rng(3).normal(size=(240, 3000))  # nothing stands out
    _, known = told([whole], 5, most=60)
    pooled = PCA(n_components=5, svd_solver="full").fit(whole)
    assert known is not None
    assert not known.exact.all()
    assert known.variances.sum() / (pooled.explained_variance_.sum() * 239 / 240) == pytest.approx(1.0, abs=0.01)


def test_every_study_begins_with_the_same_vectors() -> None:
    one, other = (next_block(Krylov.begin(50), 3) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one.T @ one, np.eye(3), atol=1e-12)


def test_fewer_components_than_are_asked_for_are_none() -> None:
    columns = np.random.default_rng(4).normal(size=(60, 2))
    whole = np.hstack([columns, columns, columns])  # two directions that vary
    assert told([whole], 2, most=6)[1] is not None
    assert told([whole], 3, most=6)[1] is None


def test_the_largest_loading_is_positive() -> None:
    _, known = told([table(100, 30, seed=9)], 3, most=30)
    assert known is not None
    assert (known.vectors[np.abs(known.vectors).argmax(axis=0), range(3)] > 0).all()
