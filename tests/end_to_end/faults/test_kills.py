"""kill -9 of every part of a federation, at every stage of a round: the same bits, nothing lost, and how long it took.

Each row trains the same study anew at three hospitals, kills a part at a stage of the second round, and starts again
what a person would start again (`wardround train`; the parts of `wardround up` come back by themselves).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from random import Random
from typing import Any

import pytest

from flows.local_record import supervisor
from tests.end_to_end.faults.trained import STAGES, Trained
from tests.end_to_end.loopback import children, paused

pytestmark = pytest.mark.timeout(900)
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


@pytest.mark.parametrize(
    ("part", "stage"),
    [pytest.param(*row, id=" - ".join(row), marks=() if row in SAMPLE else pytest.mark.long) for row in ROWS],
)
def test_what_is_killed_costs_time_and_nothing_else(trained: Trained, part: str, stage: str) -> None:
    ward = trained.ward
    if part == "PostgreSQL" and trained.ward.mark(part) is None:
        pytest.skip("this federation has no PostgreSQL")
    with ExitStack() as stack:
        row = stack.enter_context(trained.disturbed())
        row.reach(stage)
        row.strike()
        row.notice(kill(trained, part, row.train))
        driving = stack.enter_context(ward.running("train", str(ward.study))) if part == DRIVER else row.train
        row.go_on()
        row.end(driving)
    row.record(f"kill -9 of {part}", stage)


@pytest.mark.long
@pytest.mark.parametrize("away_s", [20, 70], ids=["20 s", "beyond its client's patience of 62 s"])
def test_a_training_goes_on_and_ends_while_prefect_is_away(trained: Trained, away_s: int) -> None:
    """Sites finish their work meanwhile, and all of it counts, whatever Prefect shows of it afterwards."""
    up, mark = supervisor(trained.ward.home), trained.ward.mark("Prefect")
    assert up is not None
    assert mark is not None
    with trained.disturbed() as row:
        row.reach("asked")
        row.strike()
        with paused(up.pid):  # nobody starts it again
            os.kill(mark.pid, signal.SIGKILL)
            began = time.monotonic()
            row.go_on()
            row.notice(lambda: row.events("committed", round=2) or row.train.poll() is not None)
            time.sleep(max(began + away_s - time.monotonic(), 0))
        row.end()
    trained.ward.until(lambda: trained.ward.mark("Prefect") not in (None, mark))
    row.record(f"Prefect away for {away_s} s", "asked")


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
    marks = {name: trained.ward.mark(name) for name in PARTS[part]}
    for mark in marks.values():
        assert mark is not None
        os.kill(mark.pid, signal.SIGKILL)
    return lambda: all(trained.ward.mark(name) not in (None, mark) for name, mark in marks.items())
