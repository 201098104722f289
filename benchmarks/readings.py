"""What a finished training's journals say of its speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from components.journal import Entry, read
from components.ledger import RoundLedger, trainings

FIRST_STEADY_ROUND = 3  # by then every process has trained, evaluated and registered once


@dataclass(frozen=True)
class Reading:
    """One training by its journals.

    Attributes:
        rounds: When each round was decided (its evaluation was in the journal), seconds since 1970.
        training_s: For each round, the seconds the sites spent in local training, added up.
        first_step_by: When the first optimiser step of any site had been taken at the latest.
        first_order: When the first order to train had reached its site.
        first_digest: Digest of the weights after the first round.
        finished: When the last line was written.
    """

    rounds: list[float]
    training_s: list[float]
    first_step_by: float
    first_order: float
    first_digest: str
    finished: float


def read_training(home: Path, study: str) -> Reading:
    """Read the only training of a home folder.

    Raises:
        ValueError: If there is another number of trainings, or it has not finished.
    """
    entries = read(home / "trainings" / study / "journal.jsonl")
    found = list(trainings(entries).values())
    if len(found) != 1 or found[0].finished is None:
        raise ValueError(f"{home} should hold one finished training of {study}, it holds {len(found)}")
    rounds = [found[0].rounds[number] for number in sorted(found[0].rounds)]
    sites = [read(path) for path in sorted((home / "sites" / study).glob("*/journal.jsonl"))]
    return Reading(
        rounds=[seconds(entry) for entry in entries if entry.event == "evaluated"],
        training_s=[sum(answer.seconds["train"] for answer in item.received.values()) for item in rounds],
        first_step_by=min(_first_step_by(journal, rounds) for journal in sites),
        first_order=min(seconds(entry) for journal in sites for entry in journal if entry.event == "train_ordered"),
        first_digest=rounds[0].require_state().weights,
        finished=seconds(entries[-1]),
    )


def seconds(entry: Entry) -> float:
    """Return when a line was written, seconds since 1970."""
    return datetime.fromisoformat(entry.time).timestamp()


def seconds_per_round(rounds: Sequence[float], first: int = FIRST_STEADY_ROUND) -> float:
    """Return the mean seconds from one decision to the next, from round `first` to the last.

    Raises:
        ValueError: If there is no such round, or none before it.

    >>> seconds_per_round([0.0, 5.0, 6.0, 7.5, 8.0])
    1.0
    """
    if not 2 <= first <= len(rounds):
        raise ValueError(f"first must be from 2 to {len(rounds)}, given {first}")
    return (rounds[-1] - rounds[first - 2]) / (len(rounds) - first + 1)


def _first_step_by(journal: Sequence[Entry], rounds: Sequence[RoundLedger]) -> float:
    """Return when a site had taken its first step at the latest.

    No site stops to write down its first step. But when its first training ended is known, and how long the
    steps of a later round took: all that the first training took longer is counted as before the first step.
    """
    answered = next(entry for entry in journal if entry.event == "train_answered")
    place = next(item for item in rounds if item.plan.round == answered.data["round"])
    site = next(s for s, answer in place.received.items() if answer.nonce == answered.data["nonce"])
    first = place.received[site]
    steps = first.update.steps if first.update is not None else 1
    quickest = min(item.received[site].seconds["train"] for item in rounds if site in item.received)
    return seconds(answered) - first.seconds["submit"] - quickest * (steps - 1) / steps
