"""Products of a site's own rows: what they are, and what a site does not tell."""

from typing import cast

import numpy as np
import pytest
import torch

from components.data.site_data import SiteData
from components.errors import RefusedError
from components.features import Records
from components.rounds import Split
from components.training.products import multiply_site
from tests.references.tiny_genes import records

ROWS, GENES = 12, 6


class Rows:
    """Training rows: an age, and genes."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows

    def images(self, split: Split) -> torch.Tensor:
        return self._rows


def site(*, missing: int = 0) -> SiteData:
    """A site whose second gene is missing in some rows."""
    rows = torch.from_numpy(np.random.default_rng(6).normal(5, 2, size=(ROWS, 1 + GENES))).float()
    rows[:missing, 2] = float("nan")
    return cast(SiteData, Rows(rows))


def asked(columns: list[int], width: int = 2) -> dict[str, torch.Tensor]:
    """A block of vectors of some columns, with means of 5 and scales of 2."""
    vectors = np.linalg.qr(np.random.default_rng(7).normal(size=(len(columns), width)))[0]
    about = {"mean": torch.full((len(columns),), 5.0), "scale": torch.full((len(columns),), 2.0)}
    doubles = {"chosen": torch.tensor(columns), **about, "vectors": torch.from_numpy(vectors)}
    return {name: tensor.double().contiguous() for name, tensor in doubles.items()}


def table(**wide: int) -> Records:
    return Records.model_validate({**records(GENES, **{"components": 3, **wide}), "smallest_cell": 5})


def test_products_are_those_of_the_scaled_rows() -> None:
    told = multiply_site(asked([0, 1, 4]), site(missing=3), table(), number=1)
    rows = site(missing=3).images("train")[:, [1, 2, 5]].double().numpy()
    scaled = np.nan_to_num((rows - 5) / 2)
    expected = scaled.T @ (scaled @ asked([0, 1, 4])["vectors"].numpy()) / ROWS
    np.testing.assert_allclose(told.weights["vectors"], expected, atol=1e-12)
    assert told.samples == ROWS
    assert told.weights.keys() == {"vectors"}


def test_nothing_is_told_of_a_column_with_fewer_values_than_the_smallest_cell() -> None:
    told = multiply_site(asked([0, 1, 4]), site(missing=ROWS - 4), table(), number=1)
    assert told.weights["vectors"][1].tolist() == [0.0, 0.0]
    enough = multiply_site(asked([0, 1, 4]), site(missing=ROWS - 5), table(), number=1)
    assert (enough.weights["vectors"][1] != 0).all()


def test_as_many_products_as_rows_are_not_told() -> None:
    multiply_site(asked([0, 1, 2, 3, 4, 5], width=1), site(), table(), number=6)  # the eleventh
    with pytest.raises(RefusedError, match="12 products of each column were asked of 12 training rows; fewer"):
        multiply_site(asked([0, 1, 2, 3, 4, 5]), site(), table(), number=6)


def test_a_block_wider_than_the_study_needs_is_refused() -> None:
    with pytest.raises(RefusedError, match="4 products of each column were asked"):
        multiply_site(asked([0, 1, 2, 3, 4], width=4), site(), table(), number=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vectors": None}, "no block of vectors"),
        ({"more": torch.zeros(1)}, "no block of vectors"),
        ({"chosen": torch.tensor([0.0, 1.0, 6.0]).double()}, "columns that the study's 6 wide ones are not"),
        ({"chosen": torch.tensor([1.0, 0.0, 2.0]).double()}, "columns that the study's 6 wide ones are not"),
        ({"scale": torch.tensor([1.0, 0.0, 1.0]).double()}, "means and scales do not fit"),
        ({"mean": torch.zeros(2).double()}, "means and scales do not fit"),
        ({"vectors": torch.eye(3)[:, :2]}, "not one number for each of 3 columns"),  # float32
        ({"vectors": torch.eye(3)[:, :2].double() * 9}, "not orthonormal"),
    ],
)
def test_what_is_no_block_of_the_study_is_refused(change: dict[str, torch.Tensor | None], said: str) -> None:
    weights = {name: tensor for name, tensor in {**asked([0, 1, 4]), **change}.items() if tensor is not None}
    with pytest.raises(RefusedError, match=said):
        multiply_site(weights, site(), table(), number=1)
