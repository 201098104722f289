"""A federation on loopback, as tests use it: its command line, its journals, its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.journal import Entry, read
from flows.local_record import ProcessMark
from flows.packages import ROOT

LIMIT_S = 180.0


@dataclass(frozen=True)
class Loopback:
    """A federation of a home that is up, and its study.

    Attributes:
        study: The study's file.
        name: Its name.
        home: The home.
        environment: Further variables for its commands and processes.
    """

    study: Path
    name: str
    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of `wardround` to its end."""
        done = subprocess.run(
            _command(arguments), env=self._environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command of `wardround` beside the test; killed if it is still there at the end."""
        process = subprocess.Popen(
            _command(arguments), env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def events(self, event: str, **match: Any) -> list[Entry]:
        """Return the events of the study's journal of a kind."""
        return _events(self.home / "trainings" / self.name / "journal.jsonl", event, match)

    def at(self, site: str, event: str, **match: Any) -> list[Entry]:
        """Return the events of a hospital's own journal of a kind."""
        return _events(self.hospital(site) / "journal.jsonl", event, match)

    @property
    def sites(self) -> list[str]:
        """The hospitals' names."""
        return sorted(path.name for path in (self.home / "federation" / "hospitals").iterdir())

    def hospital(self, site: str) -> Path:
        return self.home / "federation" / "hospitals" / site

    def worker(self, site: str) -> int:
        """Return the process of a hospital."""
        holder = self.hospital(site) / "journal.jsonl.holder"
        return int(self.until(lambda: holder.exists() and holder.read_text().split())[0])

    def mark(self, part: str) -> ProcessMark | None:
        """Return the process that is a part now; None where this federation has no such part."""
        marks = json.loads((self.home / "federation" / "parts.json").read_text())
        return next((ProcessMark(**mark) for mark in marks if mark["name"] == part), None)

    def logs(self) -> str:
        return "".join(f"\n== {path}\n{path.read_text()[-3000:]}" for path in sorted(self.home.rglob("*.log")))

    def until(self, condition: Callable[[], Any], limit_s: float = LIMIT_S, *, every_s: float = 0.05) -> Any:
        """Wait until something is so, and return what it then is."""
        end = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < end, f"it did not come to that\n{self.logs()}"
            time.sleep(every_s)
        return found

    @property
    def _environment(self) -> dict[str, str]:
        ours = {"WARDROUND_HOME": str(self.home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}
        return {**os.environ, **ours, **self.environment}


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Stop a process, with its children, and let it go on at the end."""
    group = [process, *children(process)]
    for one in group:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in group:
            with suppress(ProcessLookupError):  # killed meanwhile
                os.kill(one, signal.SIGCONT)


@contextmanager
def paused(process: int) -> Iterator[None]:
    """Stop one process, without its children, and let it go on at the end."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def children(process: int) -> list[int]:
    """Return the processes that a process started, and theirs."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def _command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


def _events(path: Path, event: str, match: dict[str, Any]) -> list[Entry]:
    if not path.exists():
        return []
    entries = [entry for entry in read(path) if entry.event == event]
    return [entry for entry in entries if all(entry.data.get(name) == value for name, value in match.items())]
