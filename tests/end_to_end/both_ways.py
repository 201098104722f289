"""A study trained twice by command: simulated, and at real hospitals on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from components.journal import Entry, read
from flows.packages import ROOT


def wardround(*arguments: str, home: Path) -> str:
    """Run a command to its end in a home, and return what it said."""
    environment = {**os.environ, "WARDROUND_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class BothWays:
    """What came of it.

    Attributes:
        name: Of the study.
        home: Of the training at real hospitals.
        simulated: Of the simulation.
        said: What `wardround train` said.
    """

    name: str
    home: Path
    simulated: Path
    said: str

    @property
    def homes(self) -> tuple[Path, Path]:
        return self.home, self.simulated

    def events(self, home: Path, event: str) -> list[Entry]:
        return [e for e in read(home / "trainings" / self.name / "journal.jsonl") if e.event == event]

    def weights(self, home: Path) -> list[str]:
        """Return the digests of the weights after each round."""
        return [entry.data["state"]["weights"] for entry in self.events(home, "aggregated")]


def train_both_ways(study: Path, name: str) -> BothWays:
    """Simulate a study, and train it at real hospitals, in homes beside it."""
    home, simulated = study.parent / "h", study.parent / "s"
    wardround("simulate", str(study), home=simulated)
    wardround("up", str(study), home=home)
    try:
        said = wardround("train", str(study), home=home)
    finally:
        wardround("down", home=home)
    return BothWays(name, home, simulated, said)
