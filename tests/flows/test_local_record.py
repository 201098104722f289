"""Processes known by number and start, and what a killed supervisor leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows import local_record
from flows.local_record import Addresses, ProcessMark, addresses, end_left_parts, supervisor, write_parts, write_up

SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
FOUND = Addresses("https://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3")


def sleeper(program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, process_group=0)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with sleeper(SLEEPER) as started:
        yield started
        started.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    local_record.federation_folder(tmp_path).mkdir()
    return tmp_path


def test_a_process_is_ended_in_order(process: subprocess.Popen[str]) -> None:
    mark = ProcessMark.of("sleeper", process.pid)
    assert (mark.runs, mark.end(), mark.runs) == (True, True, False)
    assert process.wait() == -signal.SIGTERM


def test_the_signal_is_the_part_s_own(process: subprocess.Popen[str]) -> None:
    assert ProcessMark.of("sleeper", process.pid, signal.SIGUSR1).end()
    assert process.wait() == -signal.SIGUSR1


def test_one_that_does_not_hear_is_killed_with_its_group() -> None:
    with sleeper(f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); {DEAF}") as process:
        assert ProcessMark.of("deaf", process.pid).end(within_s=0.1)
        assert process.wait() == -signal.SIGKILL
        assert process.stdout is not None
        process.stdout.read()  # ends when nobody of the group holds it any more


def test_another_process_of_the_same_number_is_left_alone(process: subprocess.Popen[str], home: Path) -> None:
    mark = ProcessMark.of("sleeper", process.pid)
    boot, ticks = mark.started.split()
    for started in ("", f"{boot} {int(ticks) - 1}", f"another-boot {ticks}"):
        write_parts(home, [replace(mark, started=started)])
        assert end_left_parts(home) == []
    assert process.poll() is None


def test_what_is_left_is_ended_last_started_first(home: Path) -> None:
    with sleeper(SLEEPER) as first, sleeper(SLEEPER) as second:
        write_parts(home, [ProcessMark.of("first", first.pid), ProcessMark.of("second", second.pid)])
        assert end_left_parts(home) == ["second", "first"]
        assert end_left_parts(home) == []


def test_a_federation_is_up_only_while_its_supervisor_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (supervisor(home), addresses(home)) == (None, None)
    write_up(home, FOUND)
    running = supervisor(home)
    assert running is not None
    assert (running.pid, addresses(home)) == (os.getpid(), FOUND)
    monkeypatch.setattr(local_record, "_started", lambda pid: "another boot")
    assert (supervisor(home), addresses(home)) == (None, None)
