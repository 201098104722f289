"""A server of our own on this machine, as a child process that never outlives its last user.

One folder holds one server. Three locks (`flock`, so the kernel frees them however a process ends):

- ``start.lock``: one process at a time looks whether a server runs, and starts one if none does.
- ``users.lock``: every process that uses the server holds it *shared*. The server tries twice a second to
  take it alone; when it can, nobody is left and the server stops. So `kill -9` of every user ends the
  server too, and a second user of the same folder keeps it alive when the first one leaves.
- ``server.lock``: held by the running server itself, so that "it runs" does not rest on a process number.

The listening socket is made here and handed to the child: no other process can take the port in between,
and a client that is early waits in the socket's queue instead of being refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from components.errors import ServiceError, StorageError
from flows.packages import with_packages

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ServerProgram:
    """What is started.

    Attributes:
        name: What a user calls it, for example ``Prefect``.
        module: The module that is run as the child process (see `flows.embedded_child`).
        api_path: Path of its interface below its address; empty if the address is the interface.
        health_path: Path that answers 200 once the server works.
        folder: Name of its folder inside a WardRound home.
        port_option: The option of the command line that chooses another port.
    """

    name: str
    module: str
    api_path: str
    health_path: str
    folder: str
    port_option: str


@dataclass(frozen=True)
class RunningServer:
    """A server that was started and not stopped yet.

    Attributes:
        url: Address for a browser.
        api_url: Address for a client library.
        pid: Its process.
        log: What it wrote to its standard output and error.
    """

    url: str
    api_url: str
    pid: int
    log: Path


class EmbeddedServer:
    """One process's use of a folder's server; a context manager that ends the use on leaving.

    Attributes:
        server: Addresses, process and log; known at once, before the server is ready.
        reused: Whether the server was running already.
    """

    def __init__(
        self,
        program: ServerProgram,
        folder: Path,
        *,
        users: BinaryIO,
        server: RunningServer,
        process: subprocess.Popen[bytes] | None,
    ) -> None:
        self.server = server
        self.reused = process is None
        self._program = program
        self._folder = folder
        self._users = users
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address for a browser."""
        return self.server.url

    @property
    def api_url(self) -> str:
        """Address for a client library."""
        return self.server.api_url

    def wait_ready(self, timeout_s: float = 60) -> RunningServer:
        """Block until the server answers.

        Raises:
            ServiceError: It ended, or did not answer within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if _answers(self.server.url + self._program.health_path, left):
                return self.server
            if not self.is_running():
                raise ServiceError(f"The {self._program.name} server ended while starting. {_last_words(self.server)}")
            time.sleep(min(0.05, left))
        raise ServiceError(
            f"The {self._program.name} server at {self.server.url} did not answer within {timeout_s:g} s. "
            f"{_last_words(self.server)}"
        )

    def is_running(self) -> bool:
        """Whether the server's process is there; it need not answer yet."""
        if self._process is not None and self._process.poll() is not None:
            return False
        return not _is_free(self._folder / "server.lock")

    def check_running(self) -> None:
        """Make sure of the server's process.

        Raises:
            ServiceError: It has ended.
        """
        if not self.is_running():
            raise ServiceError(f"The {self._program.name} server at {self.url} ended. {_last_words(self.server)}")

    def stop(self, timeout_s: float = 10) -> None:
        """End this use; the last user stops the server, and kills it if it has not ended after `timeout_s`.

        May be called twice. A server that others still use goes on.
        """
        if self._users.closed:
            return
        flush_prefect_events()
        with self._users:
            if _lock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._end_process(timeout_s)
        if self._process is not None and self._process.returncode is None:
            # Somebody else's from now on: Popen must not warn that it is left running.
            self._process.returncode = 0

    def _end_process(self, timeout_s: float) -> None:
        """Terminate, wait, and kill if that does not help."""
        deadline = time.monotonic() + timeout_s
        number: int = signal.SIGTERM
        while self.is_running():
            if number:
                with suppress(ProcessLookupError):
                    os.kill(self.server.pid, number)
            time.sleep(0.02)
            number = signal.SIGKILL if time.monotonic() > deadline else 0


def flush_prefect_events(timeout_s: float = 5) -> None:
    """Let Prefect's client in this process send the events it still holds, if prefect was imported at all.

    Without it the last task runs of a command that stops its own server stay unfinished in the interface.
    """
    module = sys.modules.get("prefect.events.worker")
    if module is None:
        return
    # In a thread, because Prefect answers with a coroutine where an event loop runs.
    sending = threading.Thread(target=module.EventsWorker.drain_all, kwargs={"timeout": timeout_s}, daemon=True)
    sending.start()
    sending.join(timeout_s)


def start_server(
    program: ServerProgram, folder: Path, *, port: int = 0, environment: Mapping[str, str], arguments: list[str]
) -> EmbeddedServer:
    """Start the folder's server, or use the one that runs there already; return without waiting for it.

    Args:
        program: What to start.
        folder: Where its locks, its record and its log are kept; made if missing.
        port: TCP port on the loopback interface; 0 takes any free one. A server that runs already keeps its own.
        environment: All environment variables of the child; ``{url}`` in a value becomes the server's address.
        arguments: Further arguments of the child.

    Raises:
        ServiceError: The port is in use.
        StorageError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "start.lock", "ab") as starting:
            _lock(starting, fcntl.LOCK_EX)
            users = open(folder / "users.lock", "ab")  # noqa: SIM115 - held until `stop`
            _lock(users, fcntl.LOCK_SH)
            try:
                return _start_or_reuse(program, folder, port, users=users, environment=environment, arguments=arguments)
            except BaseException:
                users.close()
                raise
    except OSError as error:
        raise StorageError(
            f"The {program.name} server needs to write in {folder}, which failed: {error.strerror or error}. "
            "Free some space or choose another folder with WARDROUND_HOME."
        ) from error


def is_silent(program: ServerProgram, folder: Path, timeout_s: float = 5) -> bool:
    """Whether a server runs in `folder` but does not answer; False also where none runs.

    Args:
        program: What would run there.
        folder: The server's folder; need not exist.
        timeout_s: Seconds to wait for the answer.
    """
    if not (folder / "server.lock").exists() or _is_free(folder / "server.lock"):
        return False
    return not _answers(_read_record(folder).url + program.health_path, timeout_s)


def check_port(port: int, program: ServerProgram) -> socket.socket:
    """A socket that listens on a loopback port.

    Raises:
        ServiceError: The port is in use, or may not be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ServiceError(
            f"Port {port} on {LOOPBACK} {reason}, so the {program.name} server cannot start there. "
            f"Stop what uses it, or choose another with {program.port_option}."
        ) from error
    return listener


def _start_or_reuse(
    program: ServerProgram,
    folder: Path,
    port: int,
    *,
    users: BinaryIO,
    environment: Mapping[str, str],
    arguments: list[str],
) -> EmbeddedServer:
    """Spawn the child with the server's lock, or read the record of the one that holds it."""
    with open(folder / "server.lock", "ab") as owned:
        if not _lock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB):
            server = _read_record(folder)
            return EmbeddedServer(program, folder, users=users, server=server, process=None)
        with check_port(port, program) as listener:
            url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
            descriptors = (listener.fileno(), owned.fileno())
            variables = {name: value.replace("{url}", url) for name, value in environment.items()}
            process = _spawn(program, folder, descriptors, environment=variables, arguments=arguments)
    server = RunningServer(url=url, api_url=url + program.api_path, pid=process.pid, log=folder / "server.log")
    _write_record(folder, server)
    return EmbeddedServer(program, folder, users=users, server=server, process=process)


def _spawn(
    program: ServerProgram,
    folder: Path,
    descriptors: tuple[int, int],
    *,
    environment: Mapping[str, str],
    arguments: list[str],
) -> subprocess.Popen[bytes]:
    """Run the child in a session of its own, so that Ctrl-C reaches it through its user only."""
    log = folder / "server.log"
    with suppress(FileNotFoundError):
        os.replace(log, folder / "server.log.1")
    command = [sys.executable, "-P", "-m", program.module, *map(str, descriptors), str(folder), *arguments]
    with open(log, "wb") as output:
        return subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=with_packages(environment),
            pass_fds=descriptors,
            start_new_session=True,
        )


def _lock(file: BinaryIO, operation: int) -> bool:
    """Take a lock; False if it was asked not to wait and another holds it."""
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    return True


def _is_free(path: Path) -> bool:
    """Whether nobody holds the lock at `path`."""
    with open(path, "ab") as file:
        return _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_record(folder: Path, server: RunningServer) -> None:
    """Write ``server.json`` whole or not at all."""
    partial = folder / ".server.json"
    partial.write_text(json.dumps(asdict(replace(server, log=str(server.log))), indent=1))  # type: ignore[arg-type]
    os.replace(partial, folder / "server.json")


def _read_record(folder: Path) -> RunningServer:
    """The record of the server that runs."""
    record = json.loads((folder / "server.json").read_text())
    return RunningServer(**{**record, "log": Path(record["log"])})


def _answers(url: str, timeout_s: float) -> bool:
    """Whether `url` answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException, urllib.error.URLError):
        return False


def _last_words(server: RunningServer) -> str:
    """The end of the server's log, and where the rest is."""
    lines = server.log.read_text(errors="replace").split("\n") if server.log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return f"Its log {server.log} ends with: {last[:300]}"
