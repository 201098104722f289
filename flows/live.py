"""What is going on: the trainings and analyses that have not finished, as their journals tell."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.analytics.ledger import AnalysisLedger, analyses, open_analyses
from components.journal import Entry, read
from components.ledger import SILENT, RoundLedger, TrainingLedger, resumable, trainings
from components.round_rules import headline

_BESIDE = ("asked_again", "update_refused", "claim_lapsed", "claim_renewed")  # while a round waits


@dataclass(frozen=True)
class LiveTraining:
    """A training that has not finished.

    Attributes:
        study: Name of the study.
        training: Its identifier.
        driven: Whether a process drives it now; else the same command takes it up again.
        rounds: Rounds at the most.
        number: The round in work; 0 before the first.
        answered: Sites whose update for it is there.
        missing: Sites that were asked, and what is known of them.
        waiting: What the round waits for, in words; empty if for nothing but its sites' work.
        metric: The watched metric of the last round that was decided; None before.
    """

    study: str
    training: str
    driven: bool
    rounds: int
    number: int
    answered: list[str]
    missing: dict[str, str]
    waiting: str
    metric: float | None

    def line(self) -> str:
        """Return it as one line.

        >>> LiveTraining("chest", "chest-1", True, 10, 3, ["east"], {"north": ""}, "", None).line()
        'chest-1: round 3 of 10; east answered, waiting for north'
        """
        said = [f"{', '.join(self.answered)} answered"] if self.answered else []
        silent = [f"{site} ({reason})" if reason else site for site, reason in sorted(self.missing.items())]
        said += [self.waiting or f"waiting for {', '.join(silent)}"] if self.waiting or silent else []
        where = f"round {self.number} of {self.rounds}" if self.number else "before its first round"
        stopped = "" if self.driven else "; nobody drives it: wardround train takes it up again"
        return f"{self.training}: {'; '.join([where, ', '.join(said)] if said else [where])}{stopped}"


def live_trainings(home: Path) -> list[LiveTraining]:
    """Return the trainings of a home that have not finished, in the order of their studies' names."""
    found = []
    for path in sorted((home / "trainings").glob("*/journal.jsonl")):
        entries = list(read(path))
        for ledger in resumable(trainings(entries)):
            found.append(_live(path, ledger, entries))
    return found


@dataclass(frozen=True)
class LiveAnalysis:
    """An analysis that has not finished.

    Attributes:
        ledger: What the journal says of it.
        driven: Whether a process drives it now; else the same command takes it up again.
    """

    ledger: AnalysisLedger
    driven: bool

    def line(self) -> str:
        """Return it as one line.

        >>> LiveAnalysis(AnalysisLedger("trial-1", "", ["east", "north"], {"": 1}, step="exits"), True).line()
        'trial-1: question 1, exits; waiting for east, north'
        >>> LiveAnalysis(AnalysisLedger("trial-1", "", ["east"], step="exits", stopped="east: no table"), False).line()
        'trial-1: question 0, exits; stopped: east: no table; once that is mended, the same command takes it up again'
        """
        ledger = self.ledger
        silent = [site for site in ledger.sites if site not in ledger.answered]
        said = ledger.waiting or (f"waiting for {', '.join(silent)}" if silent else "")
        where = f"question {len(ledger.numbers)}, {ledger.step}" if ledger.step else "before its first question"
        left = f"without {', '.join(ledger.left)}" if ledger.left else ""
        stopped = "" if self.driven else "nobody drives it: the same command takes it up again"
        if ledger.stopped and not self.driven:
            said, stopped = f"stopped: {ledger.stopped}", "once that is mended, the same command takes it up again"
        return f"{ledger.analysis}: {'; '.join(part for part in (where, said, left, stopped) if part)}"


def live_analyses(home: Path) -> list[LiveAnalysis]:
    """Return the analyses of a home that have not finished, in the order of their studies' names."""
    return [
        LiveAnalysis(ledger, _is_driven(path))
        for path in sorted((home / "analyses").glob("*/journal.jsonl"))
        for ledger in open_analyses(analyses(read(path)))
    ]


def _live(path: Path, ledger: TrainingLedger, entries: Sequence[Entry]) -> LiveTraining:
    number = max(ledger.rounds, default=0)
    item = ledger.rounds.get(number)
    decided = [one for one in ledger.rounds.values() if one.evaluation is not None]
    study = ledger.started["study"]
    rule = study["rounds"].get("convergence")
    metric = rule["metric"] if rule else headline(study["task"]["kind"])
    return LiveTraining(
        study=path.parent.name,
        training=ledger.training,
        driven=_is_driven(path),
        rounds=study["rounds"]["max"],
        number=number,
        answered=item.took_part if item else [],
        missing=_missing(ledger, item),
        waiting=_waiting(ledger.training, entries),
        metric=decided[-1].metrics.get(metric) if decided else None,
    )


def _missing(ledger: TrainingLedger, item: RoundLedger | None) -> dict[str, str]:
    """Return who has not delivered in a round that collects, and what of that is known."""
    if item is None or item.state is not None:
        return {}
    absent = [site for site in item.plan.roster if site not in item.received]
    earlier = {site: plan.round for site, plan in ledger.in_flight.items() if plan.round < item.plan.round}
    known = item.refused | dict.fromkeys(item.silent, SILENT)
    return {site: f"since round {earlier[site]}" if site in earlier else known.get(site, "") for site in absent}


def _waiting(training: str, entries: Sequence[Entry]) -> str:
    """Return what a training said last that it waits for, unless something has happened since."""
    for entry in reversed(entries):
        if entry.data.get("training") == training and entry.event not in _BESIDE:
            return str(entry.data["reason"]) if entry.event == "waiting" else ""
    return ""


def _is_driven(path: Path) -> bool:
    """Return whether a process holds a journal's lock."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
