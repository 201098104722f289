# ruff: noqa: E501 - each bad case stands in one line, as it is printed
"""A study that analyses loads; one that is wrong is told why, where, and what is allowed."""

from pathlib import Path

import pytest

from components.analytics.plan import Attendance
from components.errors import StudyError
from components.study_file import load_analysis, load_study

ROOT = Path(__file__).parents[3]
GOOD = """\
study: trial
sites:
  - {name: east, path: east}
  - {name: north, path: north}
analysis:
  time: {column: days, unit: days, end: 1000}
  event: {column: died}
  arm:
    column: arm
    levels: [placebo, drug]
  covariates:
    - name: age
      range: [18, 100]
    - {name: stage, kind: category, levels: [I, II]}
  cohort:
    - {column: age, at_least: 50}
"""
METHODS = "summary, kaplan_meier, logrank, rmst, cox, competing_risks, meta_analysis, power"
BAD = [
    ("levels: [placebo, drug]", "levels: [placebo, yes]", ":10: analysis.arm.levels[1]: given yes; must be text; YAML reads it as true, so write it in quotes: 'yes'"),
    ("unit: days", "unit: day", ":6: analysis.time.unit: given 'day'; must be one of days, weeks, months, years; did you mean days?"),
    ("end: 1000", "end: 1000.5", ":6: analysis.time: end must be 1 to 100000 whole steps of 1, given 1000.5"),
    ("end: 1000}", "end: 1000, stop: 1}", ":6: analysis.time.stop: unknown key; did you mean step?; allowed: column, unit, step, end"),
    ("  cohort:", "  methods: [coxx]\n  cohort:", f":15: analysis.methods[0]: given 'coxx'; must be one of {METHODS}; did you mean cox?"),
    ("study: trial", "study: trial\nattendance: {quorum: 0}", ":2: attendance.quorum: given 0; must be a whole number, 1 or more (that many sites), or a number with a decimal point, above 0 and at most 1 (that part of the roster; 1.0 is all of it)"),
    ("study: trial", "study: trial\nattendance: {quorum: 2, deadline: 1}", ":2: attendance.deadline: unknown key; did you mean deadline_s?; allowed: quorum, required, deadline_s"),
    ("  cohort:", "  disclosure: {smallest_cell: 0}\n  cohort:", ":15: analysis.disclosure.smallest_cell: given 0; must be 1 or more"),
    ("  cohort:", "  cox: {covariates: [weight]}\n  cohort:", ":15: analysis: cox.covariates: weight is none of arm, age, stage"),
    ("  cohort:", "  horizon: 2000\n  cohort:", ":15: analysis: horizon must be at most time.end, 1000, given 2000"),
    ("  cohort:", "  table: {source: GBSG2}\n  cohort:", ":2: sites: analysis.table.source GBSG2 needs 'sites' as {count, partition}"),
    ("range: [18, 100]", "range: [100, 18]", ":13: analysis.covariates[0]: range must be lowest < highest, given [100.0, 18.0]"),
    ("range: [18, 100]", "unit: years", ":12: analysis.covariates[0]: range (lowest, highest) goes with kind: number, and only with it, at age"),
    ("name: age", "name: arm", ":11: analysis: covariates: columns must differ from each other, given twice: arm"),
    ("{column: age, at_least: 50}", "{column: stage, at_least: 1}", ":15: analysis: cohort[0]: a category needs 'among', some of I, II"),
    ("{column: age, at_least: 50}", "{column: sex, among: [f]}", ":15: analysis: cohort[0].column: sex is none of arm, age, stage"),
    ("name: north", "name: east", ":2: sites: names must differ from each other, given ['east', 'east']"),
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("trial.yaml")


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=lambda text: text.split("\n")[0][:40])
def test_a_mistake_is_told_with_its_line_and_field(here: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    here.write_text(GOOD.replace(old, new))
    with pytest.raises(StudyError) as error:
        load_analysis(here)
    assert str(error.value) == f"trial.yaml{message}"


def test_the_good_one_is_good(here: Path) -> None:
    here.write_text(GOOD)
    study = load_analysis(here)
    assert study.analysis.regressors == ["arm", "age", "stage"]
    assert study.analysis.disclosure.smallest_cell == 5


def test_a_study_that_trains_and_one_that_analyses_are_told_apart(here: Path) -> None:
    here.write_text(GOOD)
    with pytest.raises(StudyError, match="it holds a section analysis, and trains nothing: wardround analyse trial"):
        load_study(here)
    with pytest.raises(StudyError, match="there is no section analysis in it; it is a study for training"):
        load_analysis(ROOT / "studies" / "demo.yaml")


@pytest.mark.parametrize("name", ["trial", "lung"])
def test_the_examples_are_sound(name: str) -> None:
    study = load_analysis(ROOT / "studies" / f"{name}.yaml")
    assert study.study == name
    assert study.analysis.disclosure.controlled


def test_equal_studies_have_equal_digests() -> None:
    path = ROOT / "studies" / "trial.yaml"
    assert load_analysis(path).digest == load_analysis(path).digest
    assert load_analysis(path).digest != load_analysis(path, {"seed": 2}).digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("trial", "2586ba424db335e7e5558d53d674b69c333c1e627dcc12a50655dc4b85597414"),
        ("lung", "d28c6ab502f469907d4d29b5491158d6b1596443a9681689e9d89df1a694f71a"),
    ],
)
def test_a_study_that_does_not_speak_of_attendance_has_the_digest_it_ever_had(name: str, digest: str) -> None:
    study = load_analysis(ROOT / "studies" / f"{name}.yaml")
    assert study.digest == digest
    assert study.model_copy(update={"attendance": Attendance(quorum=2)}).digest != digest


@pytest.mark.parametrize(
    ("rule", "left", "suffices"),
    [
        (Attendance(), set(), True),
        (Attendance(), {"a"}, False),
        (Attendance(quorum=3), {"a"}, True),
        (Attendance(quorum=3), {"a", "b"}, False),
        (Attendance(quorum=0.5), {"a", "b"}, True),
        (Attendance(quorum=0.51), {"a", "b"}, False),
        (Attendance(quorum=1, required=["a"]), {"a"}, False),
        (Attendance(quorum=0.01), {"a", "b", "c", "d"}, False),
    ],
)
def test_attendance_counts_of_four_sites_those_that_are_left(rule: Attendance, left: set[str], suffices: bool) -> None:
    assert rule.suffices(4, left) == suffices
