"""Table 1 from sums and histograms equals that of the pooled rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.analytics.statistics import Table1
from tests.components.analytics.hospitals import analysed, patients, split, study


def table(frames: dict, **changes: object) -> Table1:
    found = analysed(frames, study(list(frames), methods=["summary"], **changes)).table1
    assert found is not None
    return found


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_means_variances_and_counts_equal_the_pooled_ones(seed: int, sites: int) -> None:
    frame = patients(seed, 150)
    frame["age"] = frame["age"].astype(float)
    frame.loc[frame.index[::9], "age"] = np.nan
    found = table(split(frame, np.random.default_rng(seed + 1).integers(0, sites, 150)))
    for place, arm in enumerate(("placebo", "drug")):
        rows = frame[frame["arm"] == arm]
        age = found.numbers["age"][place]
        assert (found.patients[place], age.patients, age.missing) == (
            len(rows), rows["age"].notna().sum(), rows["age"].isna().sum(),
        )  # fmt: skip
        assert age.mean == pytest.approx(rows["age"].mean(), abs=1e-9)
        assert age.variance == pytest.approx(rows["age"].var(), abs=1e-8)
        width, values = 82 / 100, rows["age"].dropna()
        for share, quartile in zip((0.25, 0.5, 0.75), age.quartiles, strict=True):
            assert (values < quartile - width).mean() <= share <= (values <= quartile + width).mean()
        assert found.categories["stage"][place].counts == [int((rows["stage"] == s).sum()) for s in ("I", "II", "III")]


def test_standardised_differences_equal_their_formulas() -> None:
    frame = patients(1, 300)
    found = table(split(frame, np.arange(300) % 3))
    one, other = (frame[frame["arm"] == arm] for arm in ("placebo", "drug"))
    pooled = np.sqrt((one["age"].var() + other["age"].var()) / 2)
    assert found.differences["age"][0] == pytest.approx((other["age"].mean() - one["age"].mean()) / pooled, abs=1e-9)
    two = frame.assign(stage=np.where(frame["stage"] == "I", "I", "II"))
    shares = [(two[two["arm"] == arm]["stage"] == "II").mean() for arm in ("placebo", "drug")]
    spread = np.sqrt(sum(share * (1 - share) for share in shares) / 2)
    found = table(split(two, np.arange(300) % 3))
    assert found.differences["stage"][0] == pytest.approx(abs(shares[1] - shares[0]) / spread, abs=1e-9)


def test_few_missing_values_are_hidden_and_move_the_mean_little() -> None:
    frame = patients(1, 300)
    frame["age"] = frame["age"].astype(float)
    frame.loc[frame.index[:2], "age"] = np.nan
    found = table({"a": frame}, disclosure={"smallest_cell": 5})
    ages = found.numbers["age"]
    assert [age.missing for age in ages] == [0, 0]
    assert not all(age.complete for age in ages)
    for age, arm in zip(ages, ("placebo", "drug"), strict=True):
        assert age.patients == (frame["arm"] == arm).sum()
        assert age.mean == pytest.approx(frame[frame["arm"] == arm]["age"].mean(), abs=1e-9)


def test_a_level_with_few_patients_at_a_site_makes_the_count_a_lower_bound() -> None:
    frame = patients(1, 300)
    frame["stage"] = "I"
    frame.loc[frame.index[:150], "stage"] = "II"
    rare = frame[frame["arm"] == "drug"].index[:3]
    frame.loc[rare, "stage"] = "III"
    found = table({"a": frame, "b": patients(2, 300)}, disclosure={"smallest_cell": 5})
    drug = found.categories["stage"][1]
    assert drug.complete == [False, True, False]  # III is small, I is its complement
    assert drug.missing_complete
    assert drug.counts[2] == (patients(2, 300).query("arm == 'drug'")["stage"] == "III").sum()
    assert np.isnan(found.differences["stage"][0])


def test_the_recruitment_table_keeps_a_small_arm_back() -> None:
    few = patients(3, 40)
    few.loc[few.index[:37], "arm"] = "placebo"
    few.loc[few.index[37:], "arm"] = "drug"
    found = table({"a": patients(1, 100), "b": few}, disclosure={"smallest_cell": 5})
    assert found.sites["b"] == [37, None]
    assert found.numbers["age"][1].complete is False
