"""Running a command as a user would, with a watch on the clock and on the memory of its processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_S = 0.2


@dataclass(frozen=True)
class Finished:
    """A command that has ended well.

    Attributes:
        started: When it was started, seconds since 1970.
        seconds: Wall time to its end.
        peak_bytes: Most memory its own process held (VmHWM; 0 where there is no /proc).
        other_peak_bytes: Most memory any process below it held.
        load: Load average of the last minute when it was started.
        output: What it printed.
    """

    started: float
    seconds: float
    peak_bytes: int
    other_peak_bytes: int
    load: float
    output: str


def python(*arguments: str) -> list[str]:
    """Return the command line of a module of this checkout."""
    return [sys.executable, "-m", *arguments]


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a measured command: one torch thread a process, a home of its own."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path, "WARDROUND_HOME": str(home)}
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return {**theirs, **own}


def run(command: Sequence[str], *, variables: Mapping[str, str], timeout_s: float = 3600.0) -> Finished:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        variables: Its whole environment.
        timeout_s: After which it is killed.

    Raises:
        RuntimeError: If it exits with an error, with the end of what it printed.
        subprocess.TimeoutExpired: If it takes longer.
    """
    load, started, clock = os.getloadavg()[0], time.time(), time.perf_counter()
    with subprocess.Popen(
        list(command), cwd=ROOT, env=dict(variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        with _MemoryWatch(process.pid) as watch:
            try:
                output, _ = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        seconds = time.perf_counter() - clock
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output[-2000:]}")
    return Finished(started, seconds, watch.own, watch.largest_other, load, output)


@dataclass
class _MemoryWatch:
    """Reads the high-water marks of a process and of all below it, until it is gone.

    A mark never falls, so that all a sample can miss is the growth of the last 0.2 s.
    """

    pid: int
    own: int = 0
    largest_other: int = 0
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> _MemoryWatch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self.own = max(self.own, high_water_mark(self.pid))
            self.largest_other = max([self.largest_other, *map(high_water_mark, descendants(self.pid))])


def high_water_mark(pid: int | str = "self") -> int:
    """Return the most memory a process has held so far, in bytes; 0 if it is gone or there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes below one."""
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(text) for text in tasks.read_text(encoding="ascii").split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from descendants(child)
