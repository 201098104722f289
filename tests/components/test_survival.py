"""What a study may say of times until an event, and what it may not."""

import pytest
from pydantic import ValidationError

from components.assemble import study_mistakes
from components.data.labels import Observation, parse_label
from components.data.quarantine import UnusableItemError
from components.study import Study, Task
from tests.references.tiny_survival import survival_study, task
from tests.references.tiny_table import table_study


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": {"survival": None}}, "goes with kind: survival"),
        ({"task": {"classes": ["a", "b"]}}, "classes must be left out"),
        ({"task": task(horizons=[3.3])}, r"multiples of 0.5 up to 10, given \[3.3\]"),
        ({"task": task(horizons=[10, 5])}, "horizons must rise"),
        ({"task": task(typical=[5, 1])}, "typical must be lowest < highest"),
    ],
)
def test_a_section_that_cannot_be_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        survival_study(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"name": "LogisticRegression"}}, "network.name: given LogisticRegression; must be Linear or MLP"),
        ({"data": {"columns": {"event": ""}}}, "data.columns.event: is missing"),
        (
            {"rounds": {"convergence": {"metric": "auroc"}}},
            "rounds.convergence.metric: given auroc; must be one of brier",
        ),
        ({"task": {"imbalance": "focal"}}, "task.imbalance: given focal; must be none"),
    ],
)
def test_what_does_not_go_with_survival_is_named(changes: dict, message: str) -> None:
    assert any(str(mistake).startswith(message) for mistake in study_mistakes(survival_study(**changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"name": "Linear"}}, "network.name: given Linear; it goes with task.kind: survival"),
        (
            {"rounds": {"convergence": {"metric": "concordance"}}},
            "rounds.convergence.metric: given concordance; it goes with task.kind: survival",
        ),
        (
            {"data": {"columns": {"label": "outcome", "time": "years", "patient": ""}}},
            "data.columns.time: belongs to task.kind: survival",
        ),
    ],
)
def test_what_only_goes_with_survival_is_named(changes: dict, message: str) -> None:
    assert any(str(mistake).startswith(message) for mistake in study_mistakes(table_study(**changes)))


def test_a_study_without_survival_is_written_as_ever() -> None:
    assert "survival" not in table_study().task.model_dump()
    study = survival_study()
    assert Study.model_validate_json(study.model_dump_json()) == study


@pytest.mark.parametrize(
    ("time", "event", "found"),
    [("3.5", "yes", (3.5, 1)), ("0", "0.0", (0.0, 0)), ("12", 1, (12.0, 1)), ("2", "censored", (2.0, 0))],
)
def test_times_and_events_are_read(time: str, event: object, found: tuple[float, int]) -> None:
    assert parse_label(Observation(time, event), survival_study().task) == found


@pytest.mark.parametrize(
    ("time", "event", "reason"),
    [
        ("", "yes", "time is missing or no number"),
        ("soon", "yes", "time is missing or no number"),
        ("-1", "yes", "time is out of its range"),
        ("21", "no", "time is out of its range"),
        ("2", "perhaps", "neither yes nor no"),
        ("2", None, "neither yes nor no"),
    ],
)
def test_what_is_no_time_or_no_event_goes_to_the_quarantine(time: str, event: object, reason: str) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        parse_label(Observation(time, event), survival_study().task)


def test_the_outcomes_of_a_survival_task_have_names() -> None:
    assert survival_study().task.classes == ["censored", "event"]
    with pytest.raises(ValidationError, match="classes"):
        Task.model_validate({"kind": "binary"})
