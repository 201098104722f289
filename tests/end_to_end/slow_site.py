"""``wardround simulate`` with a dispatcher that keeps the first update of site-3 back until the others have made three
versions without it."""

import os
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from components.journal import read
from components.rounds import Answer, Order
from flows import cli, run
from flows.dispatch import open_dispatcher
from tests.end_to_end.ward import wait_until
from tests.references.tiny_study import STUDY

JOURNAL = Path(os.environ["WARDROUND_HOME"]) / "trainings" / STUDY / "journal.jsonl"
SLOW, VERSIONS = "site-3", 3


class HoldingDispatcher:
    """Hands everything on to the real dispatcher, and one answer late."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def submit(self, order: Order) -> Future[Answer]:
        answer: Future[Answer] = self._real.submit(order)
        if (order.kind, order.site, order.plan.round) != ("train", SLOW, 1):
            return answer
        late: Future[Answer] = Future()
        threading.Thread(target=hand_on, args=(answer, late), daemon=True).start()
        return late


def hand_on(answer: Future[Answer], late: Future[Answer]) -> None:
    found = answer.result()
    wait_until(lambda: sum(entry.event == "aggregated" for entry in read(JOURNAL)) >= VERSIONS)
    late.set_result(found)


def open_holding_dispatcher(*arguments: Any, **options: Any) -> Any:
    return HoldingDispatcher(open_dispatcher(*arguments, **options))


run.open_dispatcher = open_holding_dispatcher  # type: ignore[assignment]
cli.main(sys.argv[1:])
