"""Sums of sites' tables: the pooled mean and deviation come out, small cells do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import DataError, RefusedError
from components.features import Feature, Records
from components.table_sums import FeatureSums, TableSums, check_table_sums, feature_sums, fit, suppressed

AGE = Feature(name="age", range=[0, 100])
SEX = Feature(name="sex", type="boolean")
PAIN = Feature(name="pain", type="categorical", categories=["a", "b", "c"])


def sums(**values: list[float]) -> TableSums:
    features = {feature.name: feature for feature in (AGE, SEX, PAIN)}
    return TableSums(features={name: feature_sums(features[name], cells, 5) for name, cells in values.items()})


@given(st.lists(st.lists(st.floats(0, 100), min_size=5, max_size=40), min_size=1, max_size=5))
def test_mean_and_deviation_are_those_of_the_pooled_rows(sites: list[list[float]]) -> None:
    pooled = np.concatenate(sites)
    if pooled.std() < 1e-3:
        return
    fitted = fit(Records(features=[AGE]), {str(number): sums(age=cells) for number, cells in enumerate(sites)})
    assert fitted.mean[0] == pytest.approx(pooled.mean(), rel=1e-9, abs=1e-9)
    assert fitted.scale[0] == pytest.approx(pooled.std(), rel=1e-6)


def test_missing_values_are_left_out_of_the_mean() -> None:
    nan = float("nan")
    fitted = fit(Records(features=[AGE]), {"a": sums(age=[10, 20, 30, 40, 50, nan, nan])})
    assert (fitted.fill, fitted.mean) == ([30.0], [30.0])


def test_a_category_is_filled_with_the_most_frequent_one_of_all_sites() -> None:
    north, west = sums(pain=[2.0] * 9 + [0.0] * 8), sums(pain=[0.0] * 6 + [1.0] * 7)
    fitted = fit(Records(features=[PAIN]), {"north": north, "west": west})
    assert (fitted.fill, fitted.mean, fitted.scale) == ([0.0], [0.0], [1.0])


@given(st.lists(st.integers(0, 30), min_size=2, max_size=6))
def test_no_count_of_a_small_cell_can_be_told_from_the_others(counts: list[int]) -> None:
    told = suppressed(counts, 5)
    hidden = [count for count, said in zip(counts, told, strict=True) if said is None]
    assert all(said is None or said == count for said, count in zip(told, counts, strict=True))
    assert all(said is None or said == 0 or said >= 5 for said in told)
    assert len(hidden) != 1 or not any(told)


def test_a_site_with_few_values_tells_nothing_of_them() -> None:
    assert feature_sums(AGE, [50.0] * 4, 5) == FeatureSums(known=None)
    assert feature_sums(AGE, [50.0] * 5, 5).known == 5


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([7.0] * 20, "age has the same value in all rows of all sites"),
        ([float("nan")] * 20, "age has no value at 5 rows or more of any site"),
    ],
)
def test_a_feature_that_says_nothing_is_named(cells: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(Records(features=[AGE]), {"a": sums(age=cells), "b": sums(age=cells)})


def test_sums_of_other_features_are_refused_by_site() -> None:
    with pytest.raises(RefusedError, match="north: its sums are not those of the study's features"):
        check_table_sums(Records(features=[AGE, SEX]), sums(age=[1.0] * 9), "north")
    odd = TableSums(features={"sex": FeatureSums(known=3, counts=[9, 9])})
    with pytest.raises(RefusedError, match="north: the counts of sex do not fit"):
        check_table_sums(Records(features=[SEX]), odd, "north")
