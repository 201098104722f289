"""``wardround simulate`` with a dispatcher whose sites' updates arrive one by one, in a shuffled order.

The double keeps the answers back until all sites of the round have trained, and then gives each on when the one
before is in the journal.
"""

import os
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any

from components.journal import read
from components.rounds import Answer, Order
from flows import cli, run
from flows.dispatch import open_dispatcher
from tests.end_to_end.ward import wait_until
from tests.references.tiny_study import STUDY

JOURNAL = Path(os.environ["WARDROUND_HOME"]) / "trainings" / STUDY / "journal.jsonl"


class ShufflingDispatcher:
    """Hands everything on to the real dispatcher; only the order of the answers is its own."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._random = Random(2)
        self._waiting: list[tuple[Future[Answer], Future[Answer]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def submit(self, order: Order) -> Future[Answer]:
        answer: Future[Answer] = self._real.submit(order)
        if order.kind != "train" or len(order.plan.roster) == 1:
            return answer
        late: Future[Answer] = Future()
        self._waiting.append((answer, late))
        if len(self._waiting) == len(order.plan.roster):
            self._random.shuffle(self._waiting)
            threading.Thread(target=answer_one_by_one, args=(self._waiting,), daemon=True).start()
            self._waiting = []
        return late


def answer_one_by_one(waiting: list[tuple[Future[Answer], Future[Answer]]]) -> None:
    before = len(recorded_updates())
    for number, (answer, late) in enumerate([(answer.result(), late) for answer, late in waiting], start=1):
        late.set_result(answer)
        wait_until(lambda expected=before + number: len(recorded_updates()) >= expected)  # type: ignore[misc]


def recorded_updates() -> list[Any]:
    return [entry for entry in read(JOURNAL) if entry.event == "update_received"]


def open_shuffling_dispatcher(*arguments: Any, **options: Any) -> Any:
    return ShufflingDispatcher(open_dispatcher(*arguments, **options))


run.open_dispatcher = open_shuffling_dispatcher  # type: ignore[assignment]
cli.main(sys.argv[1:])
