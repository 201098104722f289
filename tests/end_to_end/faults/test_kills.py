"""kill -9 of every part of a federation, at every stage of a round: the same bits, nothing lost, and how long it took.

Each row trains the same study anew at three hospitals, kills a part at a stage of the second round, and starts again
what a person would start again (`wardround train`; the parts of `wardround up` come back by themselves).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flows.local_record import ProcessMark
from tests.end_to_end.faults.nothing_lost import nothing_lost, weights_of
from tests.end_to_end.faults.table import Trial, record
from tests.end_to_end.loopback import Loopback, children
from tests.references.open_folder import open_folder
from tests.references.tiny_study import STUDY, write_films, write_study

pytestmark = pytest.mark.timeout(900)
ROUNDS = 3
STAGES = {  # the event of the journal after which the part is killed
    "asked": "round_planned",
    "an update is there": "update_received",
    "aggregated": "aggregated",
    "evaluated": "evaluated",
}
DRIVER = "the coordinator's training"
PARTS = {
    DRIVER: (),
    "the gateway": ("gateway",),
    "Prefect": ("Prefect",),
    "MLflow": ("MLflow",),
    "a hospital's worker": ("site-2",),
    "gateway, Prefect and MLflow": ("gateway", "Prefect", "MLflow"),
    "PostgreSQL": ("PostgreSQL",),
}
WARM = "a hospital's training process"
BOTH = "a hospital's worker and its training process"
ROWS = [*product((*PARTS, WARM, BOTH), STAGES)]
SAMPLE = set(Random(os.environ.get("WARDROUND_SAMPLE", "1")).sample(ROWS, 4))


@dataclass(frozen=True)
class Trained:
    """A federation, and the weights after each round of its study where nothing disturbed it."""

    ward: Loopback
    undisturbed: Mapping[int, str]

    def mark(self, part: str) -> ProcessMark | None:
        """Return the process that is a part now; None where this federation has no such part."""
        marks = json.loads((self.ward.home / "federation" / "parts.json").read_text())
        return next((ProcessMark(**mark) for mark in marks if mark["name"] == part), None)

    def latest(self) -> str:
        """Return the identifier of the training that was begun last."""
        return str(self.ward.events("training_started")[-1].data["training"])


@pytest.fixture(scope="module")
def trained() -> Iterator[Trained]:
    """With PostgreSQL where it is installed."""
    with open_folder() as folder:
        write_films(folder)
        study = write_study(folder, rounds={"max": ROUNDS}, local={"epochs": 30, "batch_size": 2})
        ward = Loopback(study, STUDY, folder / "home")
        ward.run("up", str(study))
        try:
            ward.run("train", str(study))
            training = str(ward.events("training_started")[-1].data["training"])
            yield Trained(ward, weights_of(ward, training))
        finally:
            ward.run("down")


@pytest.mark.parametrize(
    ("part", "stage"),
    [pytest.param(*row, id=" - ".join(row), marks=() if row in SAMPLE else pytest.mark.long) for row in ROWS],
)
def test_what_is_killed_costs_time_and_nothing_else(trained: Trained, part: str, stage: str) -> None:
    ward, known = trained.ward, trained.latest()
    if part == "PostgreSQL" and trained.mark(part) is None:
        pytest.skip("this federation has no PostgreSQL")
    with ExitStack() as stack:
        train = stack.enter_context(ward.running("train", str(ward.study), "--fresh"))
        ward.until(lambda: trained.latest() != known)
        training = trained.latest()
        ward.until(lambda: ward.events(STAGES[stage], training=training, round=2))
        before, killed = steps(ward, training), time.monotonic()
        noticed = kill(trained, part, train)
        ward.until(noticed)
        detection_s = time.monotonic() - killed
        driving = stack.enter_context(ward.running("train", str(ward.study))) if part == DRIVER else train
        ward.until(lambda: steps(ward, training) > before)
        recovery_s = time.monotonic() - killed
        said, _ = driving.communicate(timeout=300)
        assert driving.returncode == 0, said
        assert ward.events("training_finished", training=training)
    nothing_lost(ward, training, trained.undisturbed)
    record(Trial(f"kill -9 of {part}", stage, detection_s, recovery_s))


def kill(trained: Trained, part: str, train: subprocess.Popen[str]) -> Callable[[], Any]:
    """Kill a part; return what says whether that was noticed."""
    ward, worker = trained.ward, trained.ward.worker("site-2")
    if part == DRIVER:
        train.kill()
        return lambda: train.poll() is not None
    if part in (WARM, BOTH):
        at_work = children(worker)
        for process in [*at_work, *([worker] if part == BOTH else [])]:
            os.kill(process, signal.SIGKILL)
        return lambda: at_work != children(ward.worker("site-2"))
    marks = {name: trained.mark(name) for name in PARTS[part]}
    for mark in marks.values():
        assert mark is not None
        os.kill(mark.pid, signal.SIGKILL)
    return lambda: all(trained.mark(name) not in (None, mark) for name, mark in marks.items())


def steps(ward: Loopback, training: str) -> int:
    """Return how many steps a training has gone; that it was taken up again is none."""
    path = ward.home / "trainings" / ward.name / "journal.jsonl"
    return sum(
        1
        for line in Path(path).read_text(encoding="utf-8").splitlines()
        if training in line and '"training_resumed"' not in line
    )
