"""A part is killed at the very place of a durable write, before it or after it: the same bits, nothing lost.

Each row arms one place (`components.failpoints`) of a federation that is up, and trains. Whichever process comes to
that place first is killed there; or it kills a server there, which its own next step then needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from tests.end_to_end.faults.trained import Disturbed, Trained, federation
from tests.end_to_end.loopback import children
from tests.references.open_folder import open_folder

pytestmark = pytest.mark.timeout(900)
DRIVER = "the coordinator's training"
WORKER, PROCESS, GATEWAY = "a hospital's worker", "a hospital's training process", "the gateway"
REGISTERING = ("model_created", "artifacts_written", "metrics_recorded", "version_created", "alias_moved")
DRIVEN = ("round_planned", "update_received", "aggregated", "evaluated", "committed", "tested")
AT_THE_HOSPITAL = ("plan_accepted", "answer_delivered")
ROWS = [  # who is killed, and where: a server where the training, or the gateway, is about to need it
    (DRIVER, "journal.after:training_started"),
    *((DRIVER, f"journal.{when}:{event}") for event in DRIVEN for when in ("before", "after")),
    (DRIVER, "journal.before:training_finished"),
    *((DRIVER, f"registry.{stage}") for stage in REGISTERING),
    *((WORKER, f"journal.{when}:{event}") for event in AT_THE_HOSPITAL for when in ("before", "after")),
    (WORKER, "hospital.sealed"),
    (PROCESS, "site.trained"),
    (PROCESS, "site.submitted"),
    (GATEWAY, "gateway.submit:payload"),
    (GATEWAY, "gateway.submit:envelope"),
    *(("MLflow", f"registry.{stage}") for stage in REGISTERING),
    *(("PostgreSQL", f"registry.{stage}") for stage in REGISTERING),
    *(("PostgreSQL", f"gateway.submit:{stage}") for stage in ("payload", "envelope")),
    *(("PostgreSQL", f"journal.after:{event}") for event in ("round_planned", "aggregated", "committed")),
    *(("Prefect", f"journal.after:{event}") for event in ("round_planned", "aggregated", "committed")),
]
SAMPLE = set(Random(os.environ.get("WARDROUND_SAMPLE", "1")).sample(ROWS, 2))


@dataclass(frozen=True)
class Armed:
    """A federation whose processes may be killed at a place, and the folder that arms them."""

    trained: Trained
    places: Path

    def arm(self, part: str, place: str) -> Path:
        """Arm a place; a server is named in it, other parts come to it themselves."""
        mark = self.trained.ward.mark(part)
        armed = self.places / place
        armed.write_text(f"{mark.pid}\n" if mark is not None else "", encoding="utf-8")
        return armed


@pytest.fixture(scope="module")
def armed() -> Iterator[Armed]:
    """With PostgreSQL where it is installed."""
    with open_folder() as places, federation({"WARDROUND_FAILPOINT": str(places)}) as trained:
        yield Armed(trained, places)


@pytest.mark.parametrize(
    ("part", "place"),
    [pytest.param(*row, id=" - ".join(row), marks=() if row in SAMPLE else pytest.mark.long) for row in ROWS],
)
def test_what_dies_at_a_durable_write_loses_nothing(armed: Armed, part: str, place: str) -> None:
    trained = armed.trained
    if part == "PostgreSQL" and trained.ward.mark(part) is None:
        pytest.skip("this federation has no PostgreSQL")
    before, left = processes(trained, part), armed.arm(part, place)
    with ExitStack() as stack:
        row = stack.enter_context(trained.disturbed())
        trained.ward.until(lambda: not left.exists())
        row.strike()
        row.notice(lambda: is_noticed(row, part, before))
        again = trained.ward.running("train", str(trained.ward.study)) if part == DRIVER else None
        driving = stack.enter_context(again) if again is not None else row.train
        row.go_on()
        row.end(driving)
    row.record(f"kill -9 of {part}", place)


def is_noticed(row: Disturbed, part: str, before: object) -> bool:
    """Return whether a training's process has gone, or another runs where a part was killed."""
    return row.train.poll() is not None if part == DRIVER else processes(row.trained, part) != before


def processes(trained: Trained, part: str) -> object:
    """Return the processes of the federation, or of its hospitals those that train."""
    if part == PROCESS:
        return [children(trained.ward.worker(site)) for site in trained.ward.sites]
    return (trained.ward.home / "federation" / "parts.json").read_text(encoding="utf-8")
