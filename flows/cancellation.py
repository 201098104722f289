"""End a training for good: its driver, wherever it runs, the hospitals' work, and what Prefect shows of it.

A cancellation is a file beside the journal, which the driver looks for; so it reaches a driver of another
user or in another container, and counts where there is none any more.

::

    <home>/trainings/<study>/<training>/cancel.json     why, and when
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.errors import JournalError, WardRoundError
from components.files import storage_errors, write_whole
from components.journal import Journal, read
from components.ledger import TrainingLedger, resumable, trainings

FILE = "cancel.json"
DRIVER_WITHIN_S = 120.0  # it may be exporting the network
LOOK_EVERY_S = 0.25


@dataclass(frozen=True)
class Cancelled:
    """What was cancelled.

    Attributes:
        training: Its identifier.
        driven: Whether a process was driving it.
    """

    training: str
    driven: bool


def cancel_training(home: Path, study: str, reason: str, *, withdraw: Callable[[str], None]) -> Cancelled:
    """Cancel the training of a study that has not finished.

    Args:
        home: Folder of everything recorded.
        study: Name of the study.
        reason: Why, for the journal.
        withdraw: Called with the training's identifier: takes the hospitals' work back. First of all, so that they
            stop at once.

    Raises:
        WardRoundError: If there is nothing to cancel, or the driver does not end.
    """
    path = home / "trainings" / study / "journal.jsonl"
    found = _open_training(path)
    if found is None:
        raise WardRoundError(f"no training of {study} is under way; wardround status shows those that are")
    withdraw(found.training)
    note = {"reason": reason, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    folder = path.parent / found.training
    with storage_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, json.dumps(note).encode())
    driven = False
    end = time.monotonic() + DRIVER_WITHIN_S
    while time.monotonic() < end:
        try:
            _record(path, found, reason)
            withdraw(found.training)  # what the driver asked for in its last moments
            return Cancelled(found.training, driven)
        except JournalError:
            driven = True
            time.sleep(LOOK_EVERY_S)
    raise WardRoundError(
        f"the process that drives {found.training} was told and has not ended within {DRIVER_WITHIN_S:.0f} s: "
        "the hospitals' work is withdrawn; end that process, and cancel again"
    )


def cancellation(folder: Path) -> str | None:
    """Return why a training was cancelled; None if it was not.

    Args:
        folder: The training's folder.
    """
    try:
        return str(json.loads((folder / FILE).read_bytes())["reason"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


async def watch_for_cancellation(folder: Path, stop: asyncio.Event) -> None:
    """Set an event as soon as a training was cancelled."""
    while cancellation(folder) is None:
        await asyncio.sleep(LOOK_EVERY_S)
    stop.set()


def _open_training(path: Path) -> TrainingLedger | None:
    """Return the newest training of a journal, if it has not finished."""
    if not path.exists():
        return None
    found = trainings(read(path))
    newest = list(found.values())[-1:]
    return newest[0] if newest and newest[0] in resumable(found) else None


def _record(path: Path, found: TrainingLedger, reason: str) -> None:
    """Write it into the journal, once nobody drives it, unless the driver did."""
    with Journal.open(path) as journal:
        ledger = trainings(journal.entries)[found.training]
        if ledger.finished is None:
            journal.append("cancelled", training=found.training, reason="cancelled", why=reason)
