import json
from collections.abc import Callable
from typing import Any

import pytest

from components.errors import ServiceError
from components.study import Study
from components.tracking.aliases import decide_best, decide_champion, move_best, move_champion
from components.tracking.registry import RegisteredVersion, Registry, Release
from components.tracking.runs import Tracker


def version(number: int, training: str = "first", data: str = "d1", **metrics: float) -> RegisteredVersion:
    tags = {"wardround.training": training, "wardround.evaluation_data": data, "wardround.metrics": json.dumps(metrics)}
    return RegisteredVersion("study", number, f"m-{number}", "run", tags)


BEST_CASES = [
    (version(1, auroc=0.7), None, "max", True),
    (version(2, auroc=0.8), version(1, auroc=0.7), "max", True),
    (version(2, auroc=0.7), version(1, auroc=0.7), "max", False),
    (version(2, auroc=0.6), version(1, auroc=0.7), "max", False),
    (version(2, auroc=0.6), version(1, auroc=0.7), "min", True),
    (version(2), version(1, auroc=0.7), "max", False),
    (version(2, auroc=0.6), version(1), "max", True),
    (version(2, "second", auroc=0.6), version(1, "first", auroc=0.7), "max", True),
]


@pytest.mark.parametrize(("candidate", "incumbent", "mode", "moves"), BEST_CASES)
def test_best_is_the_earliest_best_version_of_its_training(
    candidate: Any, incumbent: Any, mode: Any, moves: Any
) -> None:
    assert decide_best(candidate, incumbent, metric="auroc", mode=mode)[0] is moves


CHAMPION_CASES = [
    (version(3, auroc=0.7), None, True, "no champion yet"),
    (version(3, auroc=0.8), version(1, auroc=0.7), True, "0.8000 beats 0.7000 of version 1"),
    (version(3, auroc=0.7), version(1, auroc=0.7), False, "does not beat"),
    (version(3, auroc=0.9, data="d2"), version(1, auroc=0.7), False, "other data"),
    (version(3, auroc=0.9, data=""), version(1, auroc=0.7, data=""), False, "other data"),
    (version(3, auroc=0.9), version(1), False, "not recorded for both"),
    (version(3, auroc=0.9), version(3, auroc=0.9), False, "already"),
]


@pytest.mark.parametrize(("candidate", "incumbent", "moves", "reason"), CHAMPION_CASES)
def test_champion_is_beaten_only_on_the_same_data(candidate: Any, incumbent: Any, moves: Any, reason: Any) -> None:
    decided, why = decide_champion(candidate, incumbent, metric="auroc", mode="max")
    assert decided is moves
    assert reason in why


def test_aliases_move_by_rule_over_two_trainings(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], study: Study
) -> None:
    tracker = open_tracker()
    for number, auroc in enumerate((0.6, 0.8, 0.7), start=1):
        move_best(registry, registry.register(release(tracker, number, auroc)), metric="auroc", mode="max")
    assert registry.get_alias(study.study, "best").version == 2
    assert registry.get_alias(study.study, "latest").version == 3
    assert move_champion(registry, study.study, training="first", metric="auroc", mode="max").version == 2

    tracker.start_training("second", study=study, params={}, tags={})
    weaker = registry.register(release(tracker, 1, 0.75, training="second"))
    assert move_best(registry, weaker, metric="auroc", mode="max").moved
    decision = move_champion(registry, study.study, training="second", metric="auroc", mode="max")

    assert (decision.moved, decision.version) == (False, 2)
    assert registry.get(study.study, 4).tags["wardround.champion"] == f"no: {decision.reason}"
    assert registry.get_alias(study.study, "champion").version == 2


def test_deciding_again_changes_nothing(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], study: Study
) -> None:
    version_1 = registry.register(release(open_tracker(), 1))
    for expected in (True, False):
        assert move_best(registry, version_1, metric="auroc", mode="max").moved is expected
    for expected in (True, False):
        assert move_champion(registry, study.study, training="first", metric="auroc", mode="max").moved is expected
    assert registry.get(study.study, 1).tags["wardround.champion"] == "yes: there was no champion yet"


def test_a_version_that_may_not_become_champion_says_why(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], study: Study
) -> None:
    version_1 = registry.register(release(open_tracker(), 1))
    move_best(registry, version_1, metric="auroc", mode="max")
    decision = move_champion(
        registry, study.study, training="first", metric="auroc", mode="max", objection="it was made without west"
    )
    assert (decision.moved, decision.version) == (False, None)
    assert registry.get_alias(study.study, "champion") is None
    assert registry.get(study.study, 1).tags["wardround.champion"] == "no: it was made without west"


def test_a_training_without_versions_has_no_champion(registry: Registry) -> None:
    with pytest.raises(ServiceError, match="register its rounds first"):
        move_champion(registry, "study", training="first", metric="auroc", mode="max")
