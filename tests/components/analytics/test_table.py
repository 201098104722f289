"""A table that is not what the study says is refused with the column's name, the likely reason, and no value."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.analytics.table import open_cohort, read_table
from components.errors import DataError
from tests.components.analytics.hospitals import analysed, analysis, columns, patients, study

GOOD = patients(1, 80)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (GOOD.assign(time=GOOD["time"] * -1), "column time holds negative times; it counts days since"),
        (GOOD.assign(time=GOOD["time"] * 30), "more than half of the times lie beyond .* 200 days; are they in days?"),
        (GOOD.assign(time=GOOD["time"] / 365.25), "in the first hundredth of the grid.*are they in days?"),
        (GOOD.assign(time="12 d"), "column time holds text where numbers are expected"),
        (GOOD.assign(time=np.where(GOOD.index == 3, np.nan, GOOD["time"])), "column time is empty for some patients"),
        (GOOD.assign(died=GOOD["died"] + 1), r"column died must hold 0 \(censored\), 1 \(event\) and nothing else"),
        (GOOD.assign(died=GOOD["died"].map({0: "alive", 1: "dead"})), "column died must hold 0"),
        (GOOD.assign(arm="Drug"), "column arm holds a value that is none of the study's levels: placebo, drug"),
        (GOOD.assign(age=GOOD["age"] * 12), "column age holds values outside of .* 18 to 100 years; is that the unit"),
        (GOOD.assign(age=np.where(GOOD.index == 3, -9, GOOD["age"])), "is a code such as -9 or 999 used for missing"),
        (GOOD.assign(stage=GOOD["stage"] + "a"), "column stage holds a value that is none .* I, II, III"),
        (GOOD.drop(columns=["age", "stage"]), "the table has no column age, stage; it has arm, died, time"),
        (GOOD.rename(columns={"died": "Died"}), "no column died; .*Names must be those of the study, in capitals"),
    ],
)
def test_a_wrong_column_is_told(broken: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        open_cohort(columns(broken), analysis())
    assert "12 d" not in str(error.value)


def test_times_off_the_grid_are_rounded_up_and_said_to_be() -> None:
    frame = GOOD.assign(time=GOOD["time"] - 0.25)
    cohort = open_cohort(columns(frame), analysis())
    assert cohort.rounded
    assert (cohort.cells == GOOD["time"]).all()
    assert not open_cohort(columns(GOOD), analysis()).rounded


def test_tenths_of_a_year_are_on_a_grid_of_tenths() -> None:
    plan = analysis(time={"column": "time", "unit": "years", "step": 0.1, "end": 20.0})
    cohort = open_cohort(columns(GOOD.assign(time=GOOD["time"] / 10)), plan)
    assert not cohort.rounded
    assert (cohort.cells == GOOD["time"]).all()


def test_who_is_observed_beyond_the_grid_is_censored_at_its_end() -> None:
    plan = analysis(time={"column": "time", "unit": "days", "end": 100.0})
    cohort = open_cohort(columns(GOOD), plan)
    late = (GOOD["time"] > 100).to_numpy()
    assert late.any()
    assert cohort.truncated
    assert (cohort.cells[late] == 100).all()
    assert (cohort.causes[late] == 0).all()
    assert (cohort.causes[~late] == GOOD["died"][~late]).all()


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    frame = GOOD.assign(age=np.where(GOOD.index == 3, np.nan, GOOD["age"]))
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    one, other = (open_cohort(read_table(tmp_path / f"a.{kind}"), analysis()) for kind in ("csv", "parquet"))
    assert (one.cells == other.cells).all()
    assert (one.arms == other.arms).all()
    assert np.array_equal(one.columns["age"], other.columns["age"], equal_nan=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no table patients.csv in the site's folder"),
        (b"", "has no rows"),
        (b"time,died\n", "has no rows"),
        (b"time,time\n1,2\n", "names a column twice"),
        (b"time,died\n1\n", "a row with more or fewer values than columns"),
        (b"time\n\xff\xfe\n", r"cannot be read \(UnicodeDecodeError\)"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_without_its_folder(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "patients.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_table(file)
    assert str(tmp_path) not in str(error.value)


def test_a_cohort_is_who_meets_all_conditions() -> None:
    plan = analysis(cohort=[{"column": "age", "at_least": 50.0, "below": 70.0}, {"column": "arm", "among": ["drug"]}])
    cohort = open_cohort(columns(GOOD), plan)
    assert len(cohort) == ((GOOD["age"] >= 50) & (GOOD["age"] < 70) & (GOOD["arm"] == "drug")).sum()


def test_an_arm_that_nobody_was_given_is_told() -> None:
    sites = {"a": GOOD.assign(arm="placebo"), "b": patients(2).assign(arm="placebo")}
    with pytest.raises(DataError, match="nobody at any site is in arm drug"):
        analysed(sites, study(list(sites)))


def test_a_site_with_one_arm_only_takes_part_where_it_can() -> None:
    sites = {"a": patients(1), "b": patients(2), "c": patients(3).assign(arm="placebo")}
    found = analysed(sites, study(list(sites)))
    assert "c has nobody in arm drug; stratified by site it tells nothing of it." in found.notes
    assert sorted(found.effects) == ["a", "b"]
    assert "one of the arms" in found.left_out["meta-analysis"]["c"]


def test_no_event_at_any_site_is_told() -> None:
    sites = {"a": GOOD.assign(died=0), "b": patients(2).assign(died=0)}
    with pytest.raises(DataError, match=r"no event at any site: everybody counts as censored\. Does 1 mean the event"):
        analysed(sites, study(list(sites)))


def test_a_table_without_names_of_columns_tells_nothing_that_stands_in_its_first_line() -> None:
    with pytest.raises(DataError) as caught:
        open_cohort({"Jane Doe": ["1"], "1931": ["2"], "died": ["0"]}, analysis())
    assert str(caught.value).startswith("the table has no column time, arm, age, stage; it has died. ")
