"""Parts as real processes: kept running, and ended in the reverse order."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.local_parts import Parts, ProgramPart
from flows.local_record import ProcessMark

# Says when it begins and ends; ends half a second after it is told.
PROGRAM = """
import signal, sys, time
def say(what):
    open(sys.argv[2], "a").write(f"{sys.argv[1]} {what}\\n")
def end(*_):
    time.sleep(0.2); say("ends"); sys.exit(0)
signal.signal(signal.SIGTERM, end)
say("begins")
time.sleep(600)
"""


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Ward:
    """Parts, what they said, and what was noted of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.noted = folder, list[list[ProcessMark]]()
        self.parts = Parts(self.noted.append)

    def part(self, name: str, program: str = PROGRAM) -> ProgramPart:
        command = [sys.executable, "-c", program, name, str(self.folder / "said")]
        return ProgramPart(name, command, self.folder / f"{name}.log")

    def said(self) -> list[str]:
        file = self.folder / "said"
        return file.read_text().splitlines() if file.exists() else []

    def start(self, *names: str) -> None:
        self.parts.start(*map(self.part, names))
        eventually(lambda: {f"{name} begins" for name in names} <= set(self.said()))


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    found = Ward(tmp_path)
    yield found
    found.parts.end()


def test_later_steps_end_before_earlier_ones(ward: Ward) -> None:
    for names in (("database",), ("server",), ("north", "south")):
        ward.start(*names)
    ward.parts.end()
    ended = [line.split()[0] for line in ward.said() if line.endswith("ends")]
    assert (sorted(ended[:2]), ended[2:]) == (["north", "south"], ["server", "database"])


def test_each_process_is_noted_and_ended(ward: Ward) -> None:
    ward.start("database")
    ward.start("server")
    assert [mark.name for mark in ward.noted[-1]] == ["database", "server"]
    assert all(mark.runs for mark in ward.noted[-1])
    ward.parts.end()
    assert not any(mark.runs for mark in ward.noted[-1])


def test_one_that_was_killed_is_started_again_and_noted(ward: Ward) -> None:
    ward.start("server")
    before = ward.noted[-1][0]
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: not before.runs)
    ward.parts.keep()
    eventually(lambda: ward.said() == ["server begins", "server begins"])
    after = ward.noted[-1][0]
    assert (after.runs, after.pid != before.pid) == (True, True)


def test_one_that_ends_at_once_is_not_started_over_and_over(ward: Ward) -> None:
    broken = ward.part("broken", "import sys; open(sys.argv[2], 'a').write('tried\\n')")
    ward.parts.start(broken)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        ward.parts.keep()
        time.sleep(0.01)
    # At once, once more at once, then after 0.5, 1 and 2 s.
    assert 2 <= len(ward.said()) <= 5


def test_a_long_log_begins_anew(ward: Ward) -> None:
    log = ward.folder / "server.log"
    with log.open("wb") as file:
        file.truncate(17 << 20)
    ward.start("server")
    assert (log.stat().st_size, (ward.folder / "server.log.1").stat().st_size) == (0, 17 << 20)
