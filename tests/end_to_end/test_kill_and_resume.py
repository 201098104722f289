"""kill -9 of the coordinator in every stage, then the same command: nothing lost, nothing twice, the same bits."""

import os
from pathlib import Path
from random import Random
from signal import SIGKILL

import pytest

from tests.end_to_end.records import recorded
from tests.end_to_end.ward import Ward, trained_to_the_end, wait_until

pytestmark = pytest.mark.timeout(1500)
POOL, HERE = "processes:2", "in-process"
# Failpoint (its second number: the hit that kills) and dispatcher. With sites in the coordinator's own process,
# it dies while it trains.
STAGES = {
    "before planning anything": ("journal.before:training_started", POOL),
    "planning the first round": ("journal.before:round_planned", POOL),
    "planning a later round": ("journal.after:round_planned:2", POOL),
    "training": ("site.trained:5", HERE),
    "an update in its slot": ("site.submitted:4", HERE),
    "before the first update is recorded": ("journal.before:update_received", POOL),
    "after the first update arrived": ("journal.after:update_received:4", POOL),
    "all updates arrived": ("journal.after:update_received:6", POOL),
    "aggregating": ("journal.before:aggregated:2", POOL),
    "aggregated": ("journal.after:aggregated:2", POOL),
    "evaluating": ("journal.before:evaluated", POOL),
    "evaluated, not committed": ("journal.after:evaluated:3", POOL),
    "registering: model created": ("registry.model_created:2", POOL),
    "registering: artifacts written": ("registry.artifacts_written", POOL),
    "registering: metrics recorded": ("registry.metrics_recorded:3", POOL),
    "registering: version created": ("registry.version_created:2", POOL),
    "registering: alias moved": ("registry.alias_moved", POOL),
    "registered, not committed": ("journal.before:committed:2", POOL),
    "committed": ("journal.after:committed", POOL),
    "testing": ("journal.before:tested", POOL),
    "tested": ("journal.after:tested", POOL),
    "comparing": ("journal.before:compared", POOL),
    "compared": ("journal.after:compared", POOL),
    "reported": ("journal.before:training_finished", POOL),
}
SAMPLE = set(Random(os.environ.get("WARDROUND_SAMPLE", "1")).sample(sorted(STAGES), 3))


def stage(name: str) -> object:
    return pytest.param(*STAGES[name], id=name, marks=() if name in SAMPLE else pytest.mark.long)


@pytest.mark.parametrize(("failpoint", "dispatcher"), [stage(name) for name in STAGES])
def test_a_killed_training_goes_on_as_if_nothing_had_been(
    undisturbed: Ward, tmp_path: Path, failpoint: str, dispatcher: str
) -> None:
    ward = Ward.make(tmp_path, evaluate={"compare": ["local", "pooled"]})
    command = ward.start("--dispatcher", dispatcher, WARDROUND_FAILPOINT=failpoint)
    assert command.wait() == -SIGKILL, command.words()
    assert wait_until(lambda: not ward.processes(), limit_s=30), ward.processes()
    killed_in = [entry.data["training"] for entry in ward.events("training_started")]
    arrived = {(e.data["round"], e.data["site"]) for e in ward.events("update_received")}

    ward.run("--dispatcher", dispatcher)

    assert ward.digests() == undisturbed.digests()
    (training,) = {entry.data["training"] for entry in ward.events("training_started")}
    assert killed_in in ([training], [])
    assert_each_update_was_asked_for_once(ward, arrived)
    assert_recorded_once(ward, undisturbed)
    ward.verify_journals()
    assert wait_until(lambda: not ward.processes(), limit_s=30), ward.processes()


def assert_each_update_was_asked_for_once(ward: Ward, arrived: set[tuple[int, str]]) -> None:
    """What had arrived was kept; and no site trained a round twice to the end."""
    received = [(e.data["round"], e.data["site"]) for e in ward.events("update_received")]
    assert len(received) == len(set(received)) == 9
    assert arrived <= set(received)
    for folder in ward.site_folders():
        assert set(trained_to_the_end(folder).values()) <= {1}


def assert_recorded_once(ward: Ward, undisturbed: Ward) -> None:
    """MLflow holds what it holds after an undisturbed training: runs, versions, metrics, aliases."""
    assert recorded(ward) == recorded(undisturbed)
    assert ward.recorded_twice() == []
