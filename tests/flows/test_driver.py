"""How a training is left whose operator cancels or stops it while versions are still to be registered."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from flows import driver as module
from flows.cancellation import FILE
from flows.driver import Driver
from flows.session import InterruptedTrainingError
from tests.flows.collected import Training, in_loop


class Registrar:
    """A recorder that registers at once, or never."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers, self.ended = answers, ""

    def start(self, session: object, flow_run: str) -> None:
        pass

    def register(self, session: object, number: int) -> Future[int]:
        found: Future[int] = Future()
        if self.answers:
            found.set_result(100 + number)
        return found

    def finish(self, status: str, reason: str = "") -> None:
        self.ended = status


def judged(folder: Path, recorder: Registrar) -> Training:
    """A training whose three rounds are decided, and the first of them registered."""
    training = Training(folder)
    double: Any = recorder
    session = training.session
    session.recorder = double
    for number in (1, 2, 3):
        training.open(number)
        ref = {"round": number, "step": 0, "weights": "a" * 64, "statistics": [], "slots": {}}
        session.record("aggregated", round=number, state=ref, took_part=["east"])
        metrics = {"auroc": number / 10}
        session.record("evaluated", round=number, evaluation="0" * 64, metrics=metrics, seconds=1.0)
    session.record("committed", round=1, version=101)
    return training


def cancel(training: Training) -> None:
    (training.session.folder / FILE).write_text(json.dumps({"reason": "wrong labels"}))


STOPPED = InterruptedTrainingError("stopped")


@in_loop
async def test_what_was_judged_is_registered_before_a_training_is_cancelled(tmp_path: Path) -> None:
    recorder = Registrar()
    training = judged(tmp_path, recorder)
    cancel(training)
    await Driver(training.session)._end_early(STOPPED)
    assert [(e["round"], e["version"]) for e in training.events("committed")] == [(1, 101), (2, 102), (3, 103)]
    assert [entry.event for entry in training.session.journal.entries][-1] == "cancelled"
    assert recorder.ended == "KILLED"


@in_loop
async def test_a_registry_that_does_not_answer_keeps_no_cancellation_waiting(tmp_path: Path) -> None:
    training = judged(tmp_path, Registrar(answers=False))
    cancel(training)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REGISTERED_WITHIN_S", 0.05)
        await Driver(training.session)._end_early(STOPPED)
    assert len(training.events("committed")) == 1
    assert [entry["why"] for entry in training.events("cancelled")] == ["wrong labels"]


@in_loop
async def test_what_is_only_stopped_leaves_that_to_its_next_start(tmp_path: Path) -> None:
    training = judged(tmp_path, Registrar())
    await Driver(training.session)._end_early(STOPPED)
    assert len(training.events("committed")) == len(training.events("interrupted")) == 1
