"""The parts of a federation on this machine: started in steps, kept running, ended in the reverse order."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from components.errors import WardRoundError
from flows.embedded_server import EmbeddedServer
from flows.local_record import END_WITHIN_S, ProcessMark

log = logging.getLogger("wardround.up")
_STEADY_S = 10.0  # a part that ran this long is started again at once; one that did not waits first
_LONGEST_PAUSE_S = 30.0
_LOG_BYTES = 16 << 20  # beyond, a log begins anew at the next start; the one before is kept


class Part(Protocol):
    """One part, which runs from `start` to `end`."""

    name: str

    def start(self) -> None:
        """Start it; return at once."""

    @property
    def ended(self) -> bool:
        """Whether it is not running."""

    @property
    def mark(self) -> ProcessMark:
        """Its process."""

    def end(self) -> None:
        """End it in order, or else by force, and wait for its end."""


class ProgramPart:
    """A program as a child process.

    Args:
        name: For the log.
        command: The program and its arguments.
        output: File of its output.
        ends_with: The signal that ends it in order.
        how: Further arguments of `subprocess.Popen`: the user it runs as.
    """

    def __init__(
        self, name: str, command: list[str], output: Path, *, ends_with: int = signal.SIGTERM, **how: Any
    ) -> None:
        self.name = name
        self._command, self._output, self._signal, self._how = command, output, ends_with, how
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in a process group of its own, so that Ctrl-C does not reach it."""
        if self._output.exists() and self._output.stat().st_size > _LOG_BYTES:
            self._output.replace(self._output.with_name(f"{self._output.name}.1"))
        with open(self._output, "ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0, **self._how
            )

    @property
    def ended(self) -> bool:
        """Whether it is not running."""
        return self._process is None or self._process.poll() is not None

    @property
    def mark(self) -> ProcessMark:
        """Its process."""
        return ProcessMark.of(self.name, self._process.pid if self._process else 0, self._signal)

    def end(self) -> None:
        """End it, and what is left of its group if it does not end in order."""
        if self._process is None or self.ended:
            return
        self._process.send_signal(self._signal)
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def python_part(name: str, module: Sequence[str], output: Path) -> ProgramPart:
    """Return a part that runs a module of ours with its arguments."""
    return ProgramPart(name, [sys.executable, "-m", *module], output)


class ServerPart:
    """An embedded server (`flows.embedded_server`) as a part; it keeps its port when it is started again.

    Args:
        name: For the log.
        open_server: Starts it at a port, 0 for any free one.
    """

    def __init__(self, name: str, open_server: Callable[[int], EmbeddedServer]) -> None:
        self.name = name
        self._open, self._server = open_server, None  # type: tuple[Callable[[int], EmbeddedServer], EmbeddedServer | None]
        self._port = 0

    @property
    def server(self) -> EmbeddedServer:
        """The server, once it was started."""
        if self._server is None:
            raise ValueError(f"{self.name} was not started")
        return self._server

    def start(self) -> None:
        """Start it."""
        if self._server is not None:
            self._server.stop()
        self._server = self._open(self._port)
        self._port = int(self._server.url.rpartition(":")[2])

    @property
    def ended(self) -> bool:
        """Whether it is not running."""
        return self._server is None or not self._server.is_running()

    @property
    def mark(self) -> ProcessMark:
        """Its process."""
        return ProcessMark.of(self.name, self.server.server.pid)

    def end(self) -> None:
        """End it, even where another process of this home still uses it: its database ends too."""
        if self._server is None:
            return
        mark = self.mark
        self._server.stop(END_WITHIN_S)
        mark.end()


class Parts:
    """The parts that were started, in the order of their starts.

    Args:
        record: Is given the processes whenever they change.
    """

    def __init__(self, record: Callable[[list[ProcessMark]], None]) -> None:
        self._record = record
        self._steps: list[list[Part]] = []
        self._pauses: dict[str, tuple[float, float]] = {}  # by name: when it may be started again, the last pause

    def start(self, *parts: Part) -> None:
        """Start parts side by side; they end side by side too, before those of earlier steps."""
        step: list[Part] = []
        self._steps.append(step)
        for part in parts:
            part.start()
            step.append(part)
            self.write()

    def write(self) -> None:
        """Note the processes."""
        self._record([part.mark for part in self._each() if not part.ended])

    def keep(self) -> None:
        """Start again what has ended by itself; after ever longer pauses where it ends soon again."""
        for part in self._each():
            if part.ended:
                self._start_again(part)

    def end(self) -> None:
        """End all: those of one step side by side, the last step first."""
        for step in reversed(self._steps):
            with ThreadPoolExecutor(max(len(step), 1)) as threads:
                list(threads.map(_end, step))

    def _start_again(self, part: Part) -> None:
        now = time.monotonic()
        due, pause = self._pauses.get(part.name, (0.0, 0.0))
        if now < due:
            return
        # Ended within seconds of its last start: it will again, so the next pause is twice as long.
        pause = min(max(2 * pause, 0.5), _LONGEST_PAUSE_S) if now - due < _STEADY_S else 0.0
        self._pauses[part.name] = (now + pause, pause)
        log.warning("%s ended and is started again", part.name)
        try:
            part.start()
        except (OSError, WardRoundError) as error:
            log.warning("%s cannot be started: %s", part.name, error)
        self.write()

    def _each(self) -> Iterator[Part]:
        for step in self._steps:
            yield from step


def _end(part: Part) -> None:
    """End one; what goes wrong must not keep the others running."""
    try:
        part.end()
    except (OSError, WardRoundError) as error:
        log.warning("%s: %s", part.name, error)
