"""What the rows of the fault table share: a federation, its undisturbed training, and a training that is disturbed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.end_to_end.faults.nothing_lost import nothing_lost, weights_of
from tests.end_to_end.faults.table import Trial, record
from tests.end_to_end.loopback import Loopback, stopped
from tests.references.open_folder import open_folder
from tests.references.tiny_study import STUDY, write_films, write_study

ROUNDS = 3
STAGES = {  # the event of the journal after which something happens to a part, in round 2
    "asked": "round_planned",
    "an update is there": "update_received",
    "aggregated": "aggregated",
    "evaluated": "evaluated",
}


@dataclass(frozen=True)
class Trained:
    """A federation, and the weights after each round of its study where nothing disturbed it."""

    ward: Loopback
    undisturbed: Mapping[int, str]

    def latest(self) -> str:
        """Return the identifier of the training that was begun last."""
        return str(self.ward.events("training_started")[-1].data["training"])

    @contextmanager
    def disturbed(self) -> Iterator[Disturbed]:
        """Train the study anew; what happens to it is the caller's."""
        known = self.latest()
        with self.ward.running("train", str(self.ward.study), "--fresh") as train:
            self.ward.until(lambda: self.latest() != known)
            yield Disturbed(self, train, self.latest())

    @contextmanager
    def edition(self, **sections: Any) -> Iterator[None]:
        """Let the study be another edition of itself for a while."""
        text = self.ward.study.read_text()
        write_study(self.ward.study.parent, **{**yaml.safe_load(text), **sections})
        try:
            yield
        finally:
            self.ward.study.write_text(text)


@dataclass
class Disturbed:
    """A training that something happens to."""

    trained: Trained
    train: subprocess.Popen[str]
    training: str
    _steps: int = 0
    _struck: float = 0.0
    _noticed: float = field(default=0.0)
    _gone_on: float = field(default=0.0)

    @property
    def ward(self) -> Loopback:
        return self.trained.ward

    @contextmanager
    def asleep(self, site: str) -> Iterator[None]:
        """Have a hospital sleep that has delivered its update for round 1 and has no order of round 2 yet.

        The coordinator stands still until it sleeps, so that it has none for certain.
        """
        ward = self.ward
        ward.until(lambda: ward.at(site, "plan_accepted", training=self.training), every_s=0.005)
        with ExitStack() as sleep:
            with stopped(self.train.pid):
                assert not self.events("aggregated"), "this machine was too busy to stop the training in time"
                ward.until(lambda: ward.at(site, "answer_delivered", training=self.training, kind="train"))
                sleep.enter_context(stopped(ward.worker(site)))
            yield

    def reach(self, stage: str, **match: Any) -> None:
        """Wait until the training has come to a stage of its second round."""
        self.ward.until(lambda: self.events(STAGES[stage], round=2, **match))

    def events(self, event: str, **match: Any) -> list[Any]:
        """Return the events of this training of a kind."""
        return self.ward.events(event, training=self.training, **match)

    def strike(self) -> None:
        """Take note that it happens now."""
        self._steps, self._struck = self.steps(), time.monotonic()

    def notice(self, noticed: Callable[[], Any]) -> Any:
        """Wait until the system has noticed, and return how."""
        found = self.ward.until(noticed)
        self._noticed = time.monotonic()
        return found

    def go_on(self) -> None:
        """Wait until the training has gone a step on since it was struck, or last waited for."""
        before = self._steps
        self.ward.until(lambda: self.steps() > before)
        self._gone_on = time.monotonic()

    def again(self) -> None:
        """Count steps from here on: what was done until now has nothing to do with going on."""
        self._steps = self.steps()

    def end(self, driving: subprocess.Popen[str] | None = None, *, like: Mapping[int, str] | None = None) -> str:
        """Wait for the training's end, and see that nothing was lost; return what the command said.

        Args:
            driving: The command that drives it now, if it is not the first one.
            like: The weights it must have; of the undisturbed training by default.
        """
        process = driving or self.train
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said + self.ward.logs()
        assert self.events("training_finished")
        assert len(weights_of(self.ward, self.training)) == len(self.trained.undisturbed)
        nothing_lost(self.ward, self.training, self.trained.undisturbed if like is None else like)
        return said

    def record(self, fault: str, stage: str) -> None:
        """Put this trial into the table."""
        record(Trial(fault, stage, self._noticed - self._struck, self._gone_on - self._struck))

    def steps(self) -> int:
        """Return how many steps the training has gone; that it waits or was taken up again is none."""
        path = self.ward.home / "trainings" / self.ward.name / "journal.jsonl"
        idle = ('"training_resumed"', '"waiting"', '"update_refused"', '"evaluation_refused"', '"asked_again"',
                '"claim_lapsed"', '"claim_renewed"')  # fmt: skip
        return sum(
            1
            for line in path.read_text(encoding="utf-8").splitlines()
            if self.training in line and not any(event in line for event in idle)
        )


@contextmanager
def federation(environment: Mapping[str, str] | None = None, **options: Any) -> Iterator[Trained]:
    """Start a federation, with PostgreSQL where it is installed, and train its study once.

    Args:
        environment: Further variables for all of its processes.
        **options: `home` for a home that is there already; the rest are sections of the study.
    """
    with open_folder() as folder:
        write_films(folder)
        home: Path = options.pop("home", folder / "home")
        sections = {"rounds": {"max": ROUNDS, "quorum": 3}, "local": {"epochs": 30, "batch_size": 2}, **options}
        ward = Loopback(write_study(folder, **sections), STUDY, home, dict(environment or {}))
        ward.run("up", str(ward.study))
        try:
            ward.run("train", str(ward.study))
            training = str(ward.events("training_started")[-1].data["training"])
            yield Trained(ward, weights_of(ward, training))
        finally:
            ward.run("down")
