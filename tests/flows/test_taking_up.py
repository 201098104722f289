"""What a training is taken up again with."""

from typing import Any

import pytest

from components.dispatch import InitialModel, Preparation
from components.errors import StudyError
from components.ledger import TrainingLedger
from flows.taking_up import changed_data, require_own_words
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
