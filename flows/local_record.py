"""What is known of a home's federation (``wardround up``) without starting anything: is it up, and where.

::

    <home>/federation/database     where its servers record: ``sqlite`` or ``postgresql``
    <home>/federation/parts.json   every process that was started, first to last
    <home>/federation/up.json      the supervisor and the addresses, while all of it runs

A process is known by its number *and* the instant it started: numbers are used again. Light: `wardround ui` and
every recorder ask here.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from components.files import write_whole

UP, PARTS, DATABASE = "up.json", "parts.json", "database"
POSTGRESQL, SQLITE = "postgresql", "sqlite"
END_WITHIN_S = 10.0


@dataclass(frozen=True)
class ProcessMark:
    """One process of this machine.

    Attributes:
        name: What it is, for people.
        pid: Its number.
        started: When it started: the boot, and the clock ticks since then.
        ends_with: The signal that ends it in order.
    """

    name: str
    pid: int
    started: str
    ends_with: int = signal.SIGTERM

    @staticmethod
    def of(name: str, pid: int, ends_with: int = signal.SIGTERM) -> ProcessMark:
        """Return the mark of a process that runs."""
        return ProcessMark(name, pid, _started(pid) or "", int(ends_with))

    @property
    def runs(self) -> bool:
        """Whether this very process is still there, and not merely one of its number."""
        return bool(self.started) and _started(self.pid) == self.started

    def end(self, within_s: float = END_WITHIN_S) -> bool:
        """End it in order, or else by force with the processes of its group; False if it does not run."""
        if not self.runs:
            return False
        number: int = self.ends_with
        deadline = time.monotonic() + within_s
        while self.runs:
            with suppress(ProcessLookupError):
                if number == signal.SIGKILL and os.getpgid(self.pid) == self.pid:
                    os.killpg(self.pid, number)
                elif number:
                    os.kill(self.pid, number)
            number = signal.SIGKILL if time.monotonic() > deadline else 0
            time.sleep(0.02)
        return True


@dataclass(frozen=True)
class Addresses:
    """Where a federation that is up is reached.

    Attributes:
        gateway: The hospitals' door.
        prefect: Prefect's interface; its API is below ``/api``.
        mlflow: MLflow's interface and API.
    """

    gateway: str
    prefect: str
    mlflow: str


def federation_folder(home: Path) -> Path:
    """Return the coordinator's folder of a home."""
    return home / "federation"


def supervisor(home: Path) -> ProcessMark | None:
    """Return the supervisor of a home's federation, if it runs."""
    try:
        mark = ProcessMark(**json.loads((federation_folder(home) / UP).read_text())["supervisor"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return mark if mark.runs else None


def addresses(home: Path) -> Addresses | None:
    """Return where a home's federation is reached; None where it is not up."""
    if supervisor(home) is None:
        return None
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return Addresses(**json.loads((federation_folder(home) / UP).read_text())["addresses"])
    return None


def write_up(home: Path, found: Addresses) -> None:
    """Say that this process supervises a federation that is ready."""
    record = {"supervisor": asdict(ProcessMark.of("supervisor", os.getpid())), "addresses": asdict(found)}
    write_whole(federation_folder(home) / UP, json.dumps(record, indent=1).encode())


def write_parts(home: Path, marks: list[ProcessMark]) -> None:
    """Note every process that was started, first to last."""
    content = json.dumps([asdict(mark) for mark in marks], indent=1).encode()
    write_whole(federation_folder(home) / PARTS, content)


def end_left_parts(home: Path) -> list[str]:
    """End what a supervisor that was killed has left, last started first; return the names of what still ran."""
    folder = federation_folder(home)
    try:
        marks = [ProcessMark(**mark) for mark in json.loads((folder / PARTS).read_text())]
    except (FileNotFoundError, ValueError, TypeError):
        marks = []
    ended = [mark.name for mark in reversed(marks) if mark.end()]
    for name in (UP, PARTS):
        (folder / name).unlink(missing_ok=True)
    return ended


def recorded_database(home: Path) -> str:
    """Return where a home's federation records, ``sqlite`` or ``postgresql``; empty where none was started yet."""
    with suppress(FileNotFoundError):
        return (federation_folder(home) / DATABASE).read_text().strip()
    return SQLITE if (federation_folder(home) / "gateway.db").exists() else ""


def _started(pid: int) -> str | None:
    """Return the instant a process started; None where there is none of this number, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"
