"""A real federation on this machine by its own commands: ``wardround up``, ``train``, ``down``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import Finished, environment, python, run
from benchmarks.job import write_study
from benchmarks.readings import seconds
from benchmarks.scaling import study_of, write_items
from components.journal import read
from components.ledger import RoundLedger, TrainingLedger, trainings
from components.study import Study
from flows.local_postgres import PostgresMissingError, find_postgres
from flows.local_record import POSTGRESQL, SQLITE

WARM_UP = 2  # rounds: by then every process has trained, evaluated and registered once


@dataclass(frozen=True)
class RoundTime:
    """What a round of a federation took.

    Attributes:
        whole_s: From the decision of the round before to its own, with all that lies between two rounds.
        training_s: The longest local training of a site.
        evaluation_s: The longest evaluation of a site, from the question to its answer.
    """

    whole_s: float
    training_s: float
    evaluation_s: float

    @property
    def beyond_s(self) -> float:
        """Seconds beyond the slowest site's training; the evaluation is in them."""
        return self.whole_s - self.training_s


@dataclass(frozen=True)
class Trained:
    """One training of a federation.

    Attributes:
        finished: The command.
        first_round_s: From the command until its first round was evaluated.
        rounds: Its rounds after those that warm up.
        roster: The sites that took part in its last round.
    """

    finished: Finished
    first_round_s: float
    rounds: list[RoundTime]
    roster: list[str]


@dataclass(frozen=True)
class Loopback:
    """A federation that is up.

    Attributes:
        home: Its home.
        work: Folder for study files.
        up: How it was started.
    """

    home: Path
    work: Path
    up: Finished

    def train(self, study: Study) -> Trained:
        """Train a study at the hospitals, to its end."""
        file = write_study(study, self.work)
        done = run(python("flows.cli", "train", str(file)), variables=environment(self.home))
        return read_trained(self.home, study, done)


@contextmanager
def loopback(study: Study, work: Path, database: str) -> Iterator[Loopback]:
    """Yield a federation with a hospital for each site of a study; its processes and its home go at the end.

    Args:
        study: The study.
        work: A folder of ours.
        database: ``sqlite`` or ``postgresql``.
    """
    home = work / "home"
    shutil.rmtree(home, ignore_errors=True)
    file = write_study(study, work)
    work.chmod(0o711)  # PostgreSQL runs as a user of its own where we are root
    try:
        up = run(python("flows.cli", "up", str(file), "--database", database), variables=environment(home))
        yield Loopback(home, work, up)
    finally:
        run(python("flows.cli", "down"), variables=environment(home))
        shutil.rmtree(home)


def databases(wanted: str, work: Path) -> list[str]:
    """Return what is measured of ``sqlite``, ``postgresql`` and ``both``.

    Raises:
        PostgresMissingError: If PostgreSQL was asked for by its name, and is not here.
    """
    if wanted == "both":
        try:
            find_postgres(work)
        except PostgresMissingError as error:
            print(f"Only with SQLite: {error}", flush=True)
            return [SQLITE]
        return [SQLITE, POSTGRESQL]
    return [wanted]


def federated(sites: int, millions: float, work: Path, *, rounds: int) -> Study:
    """Return a study with so many hospitals, parameters and rounds; each takes one step on four small images."""
    study = study_of(sites, millions, write_items(sites, work / "items.npz"))
    return with_rounds(study, max=rounds)


def with_rounds(study: Study, **changes: int) -> Study:
    """Return a study with other settings of its rounds."""
    return study.model_copy(update={"rounds": study.rounds.model_copy(update=changes)})


def read_trained(home: Path, study: Study, done: Finished) -> Trained:
    """Read what a training's journal says of its speed.

    Raises:
        ValueError: If its command ran no round to its end.
    """
    entries = read(home / "trainings" / study.study / "journal.jsonl")
    training = [item for item in trainings(entries).values() if item.study_digest == study.digest][-1:]
    if not training or training[0].finished is None:
        raise ValueError(f"{home} holds no finished training of {study.study}")
    decided = [
        seconds(entry)
        for entry in entries
        if entry.event == "evaluated" and entry.data.get("training") == training[0].training
    ]
    return Trained(
        finished=done,
        first_round_s=decided[0] - done.started,
        rounds=round_times(training[0], decided)[WARM_UP - 1 :],
        roster=_last(training[0]).took_part,
    )


def round_times(training: TrainingLedger, decided: Sequence[float]) -> list[RoundTime]:
    """Return the times of all rounds from the second on.

    Args:
        training: The training.
        decided: When each of its rounds was evaluated.
    """
    rounds = [training.rounds[number] for number in sorted(training.rounds)]
    return [
        RoundTime(
            whole_s=now - before,
            training_s=max(answer.seconds["train"] for answer in item.received.values()),
            evaluation_s=max(item.evaluation_durations.values()),
        )
        for item, before, now in zip(rounds[1:], decided, decided[1:], strict=False)
    ]


def _last(training: TrainingLedger) -> RoundLedger:
    return training.rounds[max(training.rounds)]
