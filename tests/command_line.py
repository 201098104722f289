"""The command line run inside the test's own process, and a home in which a training was run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows import cli

if TYPE_CHECKING:
    from flows.run import TrainingOutcome


@dataclass(frozen=True)
class Finished:
    """How a command ended: its exit status, and every byte that any process wrote to its two outputs."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Trained:
    """A folder with the tiny study in it, its home with two registered versions, and a Prefect server that runs."""

    folder: Path
    home: Path
    outcome: "TrainingOutcome"


def run_command(capture: "pytest.CaptureFixture[str]", *arguments: str, **environment: str) -> Finished:
    """Run ``wardround`` with arguments and further environment variables; what it changes there is taken back."""
    before = dict(os.environ)
    capture.readouterr()
    os.environ.pop("FORCE_COLOR", None)
    os.environ.update({"COLUMNS": "80", "TERM": "xterm", **environment})
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)
    out, err = capture.readouterr()
    return Finished(int(ended.value.code or 0), out, err)


Run = Callable[..., Finished]


def train_tiny(folder: Path, home: Path, **changes: Any) -> "TrainingOutcome":
    """Train the tiny study in this process through the Python API; changes as of `tiny_study.sections`."""
    from flows import api  # torch, MLflow and Prefect: only for tests that train
    from tests.references.tiny_study import write_films, write_study

    before = dict(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    write_films(folder)
    try:
        return api.simulate(write_study(folder, **changes), home=home, dispatcher="in-process")
    finally:
        os.environ.clear()
        os.environ.update(before)
