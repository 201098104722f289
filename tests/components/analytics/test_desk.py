"""A site remembers what it told, refuses a differencing attack, and lets neither rows nor reasons of libraries out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.analytics.plan import AnalysisStudy, Disclosure
from components.analytics.records import AskEffect, AskExits, AskLogrank, AskScore, AskSummary
from components.errors import JournalError
from components.journal import read
from tests.components.analytics.hospitals import COVARIATES, asked, desk, patients, study

CONTROL = {"smallest_cell": 5}


def controlled(**changes: object) -> AnalysisStudy:
    return study(["north"], disclosure=CONTROL, **changes)


def with_one_age(count: int) -> pd.DataFrame:
    """Patients of whom exactly `count` are 89 years old."""
    frame = patients(1, 200)
    frame["age"] = frame["age"].clip(upper=80)
    frame.loc[frame.index[:count], "age"] = 89
    return frame


def test_a_cohort_that_leaves_out_one_patient_is_refused(tmp_path: Path) -> None:
    frame, everybody = with_one_age(1), controlled()
    but_one = controlled(cohort=[{"column": "age", "below": 89.0}])
    with desk(tmp_path, frame, everybody) as first:
        assert asked(first, everybody, AskSummary()).status == "done"
    with desk(tmp_path, frame, but_one) as second:  # also after a restart
        answer = asked(second, but_one, AskSummary())
    assert answer.status == "withheld"
    assert "differs from one that was told of before by fewer than 5 patients" in answer.reason
    assert answer.finding is None


def test_a_cohort_that_leaves_out_enough_patients_is_told(tmp_path: Path) -> None:
    frame, everybody = with_one_age(5), controlled()
    some = controlled(cohort=[{"column": "age", "below": 89.0}])
    for whole in (everybody, some):
        with desk(tmp_path, frame, whole) as at:
            assert asked(at, whole, AskSummary()).status == "done"


def test_one_patient_more_in_the_table_is_a_difference_too(tmp_path: Path) -> None:
    frame, whole = patients(1, 200), controlled()
    with desk(tmp_path, frame.iloc[:-1], whole) as before:
        assert asked(before, whole, AskSummary()).status == "done"
    with desk(tmp_path, frame, whole) as after:
        assert asked(after, whole, AskSummary()).status == "withheld"


def test_other_bins_or_another_grid_over_the_same_patients_are_a_difference_too(tmp_path: Path) -> None:
    frame, whole = patients(1, 200), controlled()
    with desk(tmp_path, frame, whole) as at:
        assert asked(at, whole, AskSummary()).status == "done"
    finer = controlled(covariates=[{"name": "age", "range": [18.0, 100.0], "bins": 101}, COVARIATES[1]])
    longer = controlled(time={"column": "time", "unit": "days", "end": 201.0})
    fewer = controlled(covariates=[COVARIATES[1]], methods=["summary"])
    for other, status, column in ((finer, "withheld", "age"), (longer, "withheld", "time"), (fewer, "done", "")):
        with desk(tmp_path, frame, other) as at:
            answer = asked(at, other, AskSummary())
        assert answer.status == status
        assert not column or f"column {column} of these patients was told of before" in answer.reason


def test_every_count_leaves_rounded_and_the_test_stays_exact(tmp_path: Path) -> None:
    frame, answers = patients(1, 203), {}
    for base in (1, 5):
        whole = study(["north"], disclosure={**CONTROL, "rounding": base})
        with desk(tmp_path / str(base), frame, whole) as at:
            questions = [
                AskSummary(),
                AskExits(),
                AskLogrank(),
                AskScore(covariates=["arm"], coefficients=[0.0]),
                AskEffect(),
            ]
            answers[base] = [asked(at, whole, question).finding for question in questions]
    summary, exits, logrank, score, effect = answers[5]
    counts = [arm.patients for arm in summary.arms]
    counts += [count for arm in summary.arms for number in arm.numbers.values() for count in number.counts]
    counts += [count for arm in summary.arms for item in arm.categories.values() for count in item.counts]
    counts += [count for arm in exits.arms for row in (*arm.events, arm.censored) for count in row]
    counts += [*logrank.observed, score.patients, score.events, effect.patients, effect.events]
    assert [count for count in counts if count % 5] == []
    exact = answers[1][2]
    gaps = [np.subtract(found.observed, found.expected) for found in (logrank, exact)]
    assert np.allclose(*gaps, atol=1e-12)
    assert logrank.covariance == exact.covariance


def test_without_control_differences_are_nobodys_business(tmp_path: Path) -> None:
    for cohort in ([], [{"column": "age", "below": 89.0}]):
        whole = study(["north"], cohort=cohort)
        with desk(tmp_path, with_one_age(1), whole) as at:
            assert asked(at, whole, AskSummary()).status == "done"


def test_a_cohorts_budget_survives_a_restart_and_counts_a_question_once(tmp_path: Path) -> None:
    whole = study(["north"], disclosure={**CONTROL, "queries": 2})
    frame = patients(1, 200)
    with desk(tmp_path, frame, whole) as at:
        first = asked(at, whole, AskSummary())
        assert asked(at, whole, AskSummary()) == first
        assert asked(at, whole, AskExits()).status == "done"
    with desk(tmp_path, frame, whole) as at:
        assert asked(at, whole, AskSummary()) == first
        answer = asked(at, whole, AskScore(covariates=["arm"], coefficients=[0.0]))
    assert answer.status == "withheld"
    assert "2 questions, which is all that the policy allows" in answer.reason


def test_what_another_study_was_told_word_for_word_is_remembered_and_costs_nothing(tmp_path: Path) -> None:
    frame, budget = patients(1, 200), {**CONTROL, "queries": 2}
    whole, later = study(["north"], horizon=150.0, disclosure=budget), study(["north"], disclosure=budget)
    again = whole.model_copy(update={"study": "again"})
    refused = "2 questions, which is all"
    said = [(whole, AskSummary, ""), (again, AskSummary, ""), (again, AskExits, ""), (whole, AskExits, "")]
    for one, kind, reason in [*said, (later, AskExits, refused)]:
        with desk(tmp_path, frame, one) as at:
            given = asked(at, one, kind())
        assert (given.status == "withheld") is bool(reason)
        assert reason in given.reason
    asked_by = [
        entry.data["study"] for entry in read(tmp_path / "state" / "questions.jsonl") if entry.event == "question"
    ]
    assert asked_by == ["trial", "again", "again", "trial"]


def test_regressions_stop_before_they_tell_more_than_the_table_holds(tmp_path: Path) -> None:
    whole, frame = study(["north"], disclosure={**CONTROL, "queries": 10_000}), patients(1, 200)
    statuses = []
    with desk(tmp_path, frame, whole) as at:
        for step in range(60):
            question = AskScore(covariates=["arm", "age", "stage"], coefficients=[0.01 * step, 0.0, 0.0, 0.0])
            statuses.append(asked(at, whole, question).status)
    told = statuses.count("done")
    assert told * 15 <= 200 * 4 < (told + 1) * 15  # 15 numbers a step, 4 columns
    assert statuses == ["done"] * told + ["withheld"] * (60 - told)


def test_a_sites_own_policy_makes_the_studys_stricter_and_never_milder(tmp_path: Path) -> None:
    frame, whole = patients(1, 14), study(["north"], disclosure={"smallest_cell": 2})
    with desk(tmp_path / "a", frame, whole, own=Disclosure(smallest_cell=12)) as at:
        finding = asked(at, whole, AskSummary()).finding
        assert finding is not None
        assert [arm.patients for arm in finding.arms] == [None, None]
    mild = study(["north"], disclosure={"smallest_cell": 12})
    with desk(tmp_path / "b", frame, mild, own=Disclosure(smallest_cell=1)) as at:
        assert at.policy.smallest_cell == 12


def test_a_question_of_another_site_or_another_study_is_refused(tmp_path: Path) -> None:
    whole, other = controlled(), controlled(methods=["cox"])
    with desk(tmp_path, patients(1), whole) as at:
        assert "this is north" in asked(at, whole, AskSummary(), site="south").reason
        assert "another version of trial" in asked(at, other, AskSummary()).reason


def test_two_processes_do_not_answer_from_one_folder(tmp_path: Path) -> None:
    whole = controlled()
    with desk(tmp_path, patients(1), whole), pytest.raises(JournalError, match="is driving this journal"):
        desk(tmp_path, patients(1), whole)


def test_nothing_that_leaves_holds_a_value_that_only_few_patients_have(tmp_path: Path) -> None:
    frame, whole = patients(1, 200), controlled()
    frame["time"] = np.arange(200) // 2 + 1
    with desk(tmp_path, frame, whole) as at:
        exits = asked(at, whole, AskExits()).finding
        summary = asked(at, whole, AskSummary()).finding
    assert exits is not None
    assert summary is not None
    cells = [count for arm in exits.arms for row in (*arm.events, arm.censored) for count in row]
    assert all(count == 0 or count >= 5 for count in cells)
    assert all(count >= 5 for arm in summary.arms for number in arm.numbers.values() for count in number.counts)


def test_what_a_site_remembers_holds_no_row(tmp_path: Path) -> None:
    frame, whole = patients(1, 50).assign(name=[f"Patient{number}Secret" for number in range(50)]), controlled()
    with desk(tmp_path, frame, whole) as at:
        answer = asked(at, whole, AskSummary())
    assert "Secret" not in answer.model_dump_json()
    kept = b"".join(file.read_bytes() for file in (tmp_path / "state").rglob("*") if file.is_file())
    assert b"Secret" not in kept
    events = [json.loads(line)["event"] for line in (tmp_path / "state" / "questions.jsonl").read_text().splitlines()]
    assert events == ["cohort", "question"]


def test_an_unforeseen_error_leaves_as_its_kind_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("Mrs Smith, born 1931")

    monkeypatch.setattr("components.analytics.desk.answer", fail)
    whole = controlled()
    with desk(tmp_path, patients(1), whole) as at:
        answer = asked(at, whole, AskSummary())
    assert (answer.status, answer.reason) == ("failed", "ZeroDivisionError; see the hospital's own log")
    assert "Mrs Smith" in (tmp_path / "state" / "questions.jsonl").read_text()


def test_an_answer_says_which_cohort_it_is_of_and_nothing_that_another_site_could_make(tmp_path: Path) -> None:
    whole, frame = controlled(), patients(1, 200)
    with desk(tmp_path / "a", frame, whole) as at:
        first, again = asked(at, whole, AskSummary()), asked(at, whole, AskExits())
    with desk(tmp_path / "b", frame, whole) as at:
        elsewhere = asked(at, whole, AskSummary())
    with desk(tmp_path / "a", patients(2, 200), whole) as at:
        changed = asked(at, whole, AskSummary())
    assert first.cohort == again.cohort != ""
    assert len({first.cohort, elsewhere.cohort, changed.cohort}) == 3


def test_an_answer_says_where_the_site_is_stricter_than_the_study_and_only_there(tmp_path: Path) -> None:
    whole, frame = controlled(), patients(1, 200)
    with desk(tmp_path, frame, whole, own=Disclosure(smallest_cell=9)) as at:
        assert asked(at, whole, AskSummary()).policy == Disclosure(smallest_cell=9)
    with desk(tmp_path, frame, whole, own=Disclosure(smallest_cell=5)) as at:
        assert asked(at, whole, AskSummary()).policy is None
