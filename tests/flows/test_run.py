"""What a training is taken up again with."""

from typing import Any

import pytest

from components.dispatch import InitialModel, Preparation
from components.ledger import TrainingLedger
from flows.run import changed_data


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
