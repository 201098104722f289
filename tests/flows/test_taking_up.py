"""What a training is taken up again with."""

from typing import Any

import pytest

from components.dispatch import InitialModel, Preparation
from components.errors import StudyError
from components.ledger import RoundLedger, TrainingLedger
from components.rounds import RoundPlan, StateRef
from flows.taking_up import changed_data, require_own_words, resumed_text
from tests.references.tiny_study import tiny_study


def found(site: str, digest: str = "") -> Preparation:
    return Preparation(site=site, ready=bool(digest), data_digest=digest)


def ledger(*preparations: Preparation) -> TrainingLedger:
    initial = InitialModel(weights_digest="0" * 64, statistics=[], normalisation=[], parameters=1)
    nothing: dict[str, Any] = {}
    return TrainingLedger("t", "0" * 64, nothing, initial, {one.site: one for one in preparations})


@pytest.mark.parametrize(
    ("now", "simulated", "at_hospitals"),
    [
        ([found("east", "a"), found("west", "b")], [], []),
        ([found("east", "a"), found("west", "other")], ["west"], ["west"]),
        ([found("east", "a"), found("west")], ["west"], []),  # away, at a hospital; its data are gone, in a simulation
        ([found("east", "a"), found("west", "b"), found("north", "c")], ["north"], []),
    ],
)
def test_whose_data_changed_since(now: list[Preparation], simulated: list[str], at_hospitals: list[str]) -> None:
    began, sites = ledger(found("east", "a"), found("west", "b")), {one.site: one for one in now}
    assert changed_data(began, sites, hospitals=False) == simulated
    assert changed_data(began, sites, hospitals=True) == at_hospitals


def test_a_study_that_another_version_has_begun_is_not_begun_anew_unasked() -> None:
    study, begun = tiny_study(), ledger()
    newer = ledger()
    newer.started = {"study": {}}
    begun.started, begun.code_version = {"study": study.model_dump(mode="json")}, "9.1.0"
    with pytest.raises(StudyError, match=r"begun by WardRound 9\.1\.0, which writes it otherwise than this .*--fresh"):
        require_own_words(study, [begun])
    require_own_words(tiny_study(seed=2), [begun])  # it is another study
    require_own_words(study, [begun, newer])  # it was given up for a newer one
    begun.finished = {}
    require_own_words(study, [begun])


def decided(number: int, value: float, version: int | None) -> RoundLedger:
    plan = RoundPlan(
        study="t", study_digest="0" * 64, training="t", round=number, base_digest="0" * 64, roster=["a"], quorum=1,
        deadline_s=1.0,
    )  # fmt: skip
    state = StateRef(round=number, step=0, weights="w", statistics=[], slots={})
    return RoundLedger(plan, state=state, evaluation="e", metrics={"auroc": value}, version=version)


def test_where_a_training_is_taken_up_is_said() -> None:
    study = tiny_study(rounds={"max": 4, "convergence": {"metric": "auroc", "patience": 1}})
    begun = ledger()
    assert resumed_text(study, begun) == "resuming t at round 1"
    begun.rounds = {1: decided(1, 0.7, 1), 2: decided(2, 0.8, None)}
    assert resumed_text(study, begun) == "resuming t at round 3; still to be registered: 2"
    begun.rounds[3] = decided(3, 0.8, 3)
    assert resumed_text(study, begun) == "resuming t after its last round; still to be registered: 2"
    begun.rounds = {number: decided(number, number / 10, number) for number in (1, 2, 3, 4)}
    assert resumed_text(study, begun) == "resuming t after its last round"
