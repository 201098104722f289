"""End a training or an analysis for good: its driver, wherever it runs, the hospitals' work, and what Prefect shows.

A cancellation is a file beside the journal, which the driver looks for; so it reaches a driver of another
user or in another container, and counts where there is none any more.

::

    <home>/trainings/<study>/<training>/cancel.json     why, and when
    <home>/analyses/<study>/<analysis>/cancel.json
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.analytics.ledger import analyses, open_analyses
from components.errors import JournalError, WardRoundError
from components.files import storage_errors, write_whole
from components.journal import Entry, Journal, read
from components.ledger import resumable, trainings

FILE = "cancel.json"
DRIVER_WITHIN_S = 120.0  # it may be exporting the network
LOOK_EVERY_S = 0.25


@dataclass(frozen=True)
class Cancelled:
    """What was cancelled.

    Attributes:
        name: Its identifier.
        driven: Whether a process was driving it.
    """

    name: str
    driven: bool


@dataclass(frozen=True)
class _Kind:
    """What can be cancelled.

    Attributes:
        folder: Of its journals, in the home.
        under_way: Returns the identifier of a journal's newest if it has not finished, else None.
        record: Writes into a journal that one was cancelled, and why.
    """

    folder: str
    under_way: Callable[[Sequence[Entry]], str | None]
    record: Callable[[Journal, str, str], object]


def _open_training(entries: Sequence[Entry]) -> str | None:
    found = trainings(entries)
    newest = list(found.values())[-1:]
    return newest[0].training if newest and newest[0] in resumable(found) else None


def _open_analysis(entries: Sequence[Entry]) -> str | None:
    found = analyses(entries)
    newest = list(found.values())[-1:]
    return newest[0].analysis if newest and newest[0] in open_analyses(found) else None


_KINDS = (
    _Kind(
        "trainings",
        _open_training,
        lambda journal, name, why: journal.append("cancelled", training=name, reason="cancelled", why=why),
    ),
    _Kind(
        "analyses",
        _open_analysis,
        lambda journal, name, why: journal.append("analysis_cancelled", analysis=name, why=why),
    ),
)


def cancel_study(home: Path, study: str, reason: str, *, withdraw: Callable[[str], None]) -> Cancelled:
    """Cancel the training, or the analysis, of a study that has not finished.

    Args:
        home: Folder of everything recorded.
        study: Name of the study.
        reason: Why, for the journal.
        withdraw: Called with the identifier: takes the hospitals' work back. First of all, so that they stop at once.

    Raises:
        WardRoundError: If there is nothing to cancel, or the driver does not end.
    """
    for kind in _KINDS:
        path = home / kind.folder / study / "journal.jsonl"
        name = kind.under_way(list(read(path))) if path.exists() else None
        if name is not None:
            return _cancel(kind, path, name, reason, withdraw)
    raise WardRoundError(f"no training and no analysis of {study} is under way; wardround status shows those that are")


def cancellation(folder: Path) -> str | None:
    """Return why a training or an analysis was cancelled; None if it was not.

    Args:
        folder: Its folder.
    """
    try:
        return str(json.loads((folder / FILE).read_bytes())["reason"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


async def watch_for_cancellation(folder: Path, stop: asyncio.Event) -> None:
    """Set an event as soon as a training or an analysis was cancelled."""
    while cancellation(folder) is None:
        await asyncio.sleep(LOOK_EVERY_S)
    stop.set()


def _cancel(kind: _Kind, path: Path, name: str, reason: str, withdraw: Callable[[str], None]) -> Cancelled:
    """Tell the driver, and wait until it has ended."""
    withdraw(name)
    note = {"reason": reason, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    folder = path.parent / name
    with storage_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, json.dumps(note).encode())
    driven = False
    end = time.monotonic() + DRIVER_WITHIN_S
    while time.monotonic() < end:
        try:
            _record(kind, path, name, reason)
            withdraw(name)  # what the driver asked for in its last moments
            return Cancelled(name, driven)
        except JournalError:
            driven = True
            time.sleep(LOOK_EVERY_S)
    raise WardRoundError(
        f"the process that drives {name} was told and has not ended within {DRIVER_WITHIN_S:.0f} s: "
        "the hospitals' work is withdrawn; end that process, and cancel again"
    )


def _record(kind: _Kind, path: Path, name: str, reason: str) -> None:
    """Write it into the journal, once nobody drives it, unless the driver did."""
    with Journal.open(path) as journal:
        if kind.under_way(journal.entries) == name:
            kind.record(journal, name, reason)
