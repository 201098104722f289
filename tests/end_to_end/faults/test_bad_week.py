"""A bad week in minutes: eight hospitals, many rounds, and something killed or stopped every few seconds.

What happens is drawn with a seed. In the end every round is there, with the weights that a simulation of the same
study comes to without any of it, and the processes that were left alone hold no more memory than at the beginning.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pytest

from benchmarks.processes import memory_by_kind
from flows.local_record import ProcessMark
from tests.end_to_end.faults.nothing_lost import nothing_lost, weights_of
from tests.end_to_end.faults.table import Week, record
from tests.end_to_end.loopback import Loopback, children, stopped
from tests.references.open_folder import open_folder
from tests.references.tiny_study import STUDY, write_films, write_study

ROUNDS = int(os.environ.get("WARDROUND_WEEK_ROUNDS", "200"))
HOSPITALS = 8
SEED = int(os.environ.get("WARDROUND_WEEK_SEED", "1"))
EVERY_S = 6.0  # between two faults, on average
LIMIT_S = 3000.0
SERVERS = ("gateway", "Prefect", "MLflow", "PostgreSQL")

pytestmark = [pytest.mark.long, pytest.mark.timeout(LIMIT_S + 900)]


@dataclass
class Trouble:
    """What is done to a federation, and to the training that it drives."""

    ward: Loopback
    random: Random
    stack: ExitStack
    done: Counter[str] = field(default_factory=Counter)
    driving: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.drive()

    def drive(self) -> None:
        """Give the command that trains, or that takes the training up again."""
        self.driving = self.stack.enter_context(self.ward.running("train", str(self.ward.study)))

    def make(self) -> None:
        """Do one thing that was drawn."""
        faults: dict[str, Callable[[], None]] = {
            "kill -9 of a server": self._kill_server,
            "kill -9 of a hospital's worker": lambda: _kill(self.ward.worker(self._site())),
            "kill -9 of a hospital's training process": self._kill_warm,
            "a hospital stopped for seconds": self._stop_hospital,
            "kill -9 of the coordinator's training": self._kill_driver,
        }
        if len(self.ward.events("committed")) > ROUNDS - 3:  # given again, it would begin another training
            del faults["kill -9 of the coordinator's training"]
        name = self.random.choice(sorted(faults))
        faults[name]()
        self.done[name] += 1

    def _site(self) -> str:
        return f"site-{self.random.randint(1, HOSPITALS)}"

    def _kill_server(self) -> None:
        parts = json.loads((self.ward.home / "federation" / "parts.json").read_text(encoding="utf-8"))
        servers = [ProcessMark(**mark) for mark in parts if mark["name"] in SERVERS]
        _kill(self.random.choice(sorted(servers, key=lambda mark: mark.name)).pid)

    def _kill_warm(self) -> None:
        for process in children(self.ward.worker(self._site())):
            _kill(process)

    def _stop_hospital(self) -> None:
        with stopped(self.ward.worker(self._site())):
            time.sleep(self.random.uniform(1, 5))

    def _kill_driver(self) -> None:
        self.driving.kill()
        self.driving.wait()
        self.drive()


@pytest.fixture
def ward() -> Iterator[Loopback]:
    """Eight hospitals, with PostgreSQL where it is installed."""
    with open_folder() as folder:
        write_films(folder)
        shares = ",".join(["0.125"] * HOSPITALS)
        # All of them count in every round, so that there is one right outcome.
        rounds = {"max": ROUNDS, "quorum": HOSPITALS}
        study = write_study(folder, rounds=rounds, sites={"partition": f"sizes:{shares}"})
        ward = Loopback(study, STUDY, folder / "home")
        ward.run("up", str(study))
        try:
            yield ward
        finally:
            ward.run("down")


def test_a_bad_week_loses_nothing(ward: Loopback) -> None:
    held: list[tuple[int, float]] = []
    with ExitStack() as stack:
        trouble = Trouble(ward, Random(SEED), stack)
        ward.until(lambda: ward.events("committed"))
        began = time.monotonic()
        while not ward.events("training_finished"):
            assert time.monotonic() - began < LIMIT_S, ward.logs()
            time.sleep(trouble.random.uniform(0.5, 1.5) * EVERY_S)
            held.append((len(ward.events("committed")), megabytes(ward.home)))
            if trouble.driving.poll() is None:
                trouble.make()
            elif not ward.events("training_finished"):  # it gave up and said why: a person gives the command again
                trouble.done["gave up, started again"] += 1
                trouble.drive()
        said, _ = trouble.driving.communicate(timeout=300)
        seconds = time.monotonic() - began
        assert trouble.driving.returncode == 0, said
    (training,) = {str(entry.data["training"]) for entry in ward.events("training_started")}
    committed = len(ward.events("committed", training=training))
    assert committed == ROUNDS
    nothing_lost(ward, training, simulated(ward))
    record(Week(HOSPITALS, ROUNDS, committed, dict(trouble.done), seconds, slope(held)))


def simulated(ward: Loopback) -> dict[int, str]:
    """Return the weights of the same study on one machine, where nothing happens."""
    alone = Loopback(ward.study, STUDY, ward.home.parent / "alone")
    alone.run("simulate", str(ward.study))
    return weights_of(alone, str(alone.events("training_started")[-1].data["training"]))


def megabytes(home: Path) -> float:
    """Return what all processes of a federation hold, in MB."""
    return sum(memory.own for found in memory_by_kind(home).values() for memory in found) / 1e6


def slope(held: list[tuple[int, float]]) -> float:
    """Return by how much memory grew in a hundred rounds, by least squares, in MB; once every process had begun."""
    rounds, amounts = np.array(held[len(held) // 4 :]).T
    return float(np.polyfit(rounds, amounts, 1)[0] * 100)


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
