"""What every embedded server does as a child process: live on a given socket, and end with its last user."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

LOOK_EVERY_S = 0.5
END_WITHIN_S = 8.0
NICE = 5  # a third of the weight of a process that trains
NICE_SERVING = 10  # a tenth: what is served shows and records what has happened, and may lag behind


class ChildServer(uvicorn.Server):
    """uvicorn on a socket that the parent opened; ends with exit status 0 when it was asked to end."""

    def __init__(self, config: uvicorn.Config, before_shutdown: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__(config)
        self._before_shutdown = before_shutdown

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Ask for an orderly end. Not remembered, so that uvicorn does not kill us with the signal afterwards."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close, after what was received is written."""
        if self._before_shutdown is not None:
            await self._before_shutdown()
        await super().shutdown(sockets)


def begin(arguments: list[str]) -> tuple[socket.socket, Path]:
    """Take over the parent's socket and lock, and watch for the last user's end from now on.

    Called before the heavy imports: a parent that dies while they run leaves nothing behind. Collecting
    garbage is put off until `serve`, because imports make almost none (it saves a tenth of the start).

    Args:
        arguments: Descriptors of the listening socket and of ``server.lock``, and the server's folder.
    """
    gc.disable()
    _stand_back(NICE)
    listener = socket.socket(fileno=int(arguments[0]))
    for descriptor in arguments[:2]:
        os.set_inheritable(int(descriptor), False)
    folder = Path(arguments[2])
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_last_user, args=(folder / "users.lock",), daemon=True).start()
    return listener, folder


def serve(app: Any, listener: socket.socket, before_shutdown: Callable[[], Awaitable[None]] | None = None) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT."""
    gc.freeze()
    gc.enable()
    _stand_back(NICE_SERVING)
    config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=5, timeout_graceful_shutdown=2)
    ChildServer(config, before_shutdown).run(sockets=[listener])


def _stand_back(nice: int) -> None:
    """Leave the processor to those who train while there are too few for all.

    Linux shares it out by sessions first (where ``sched_autogroup`` is on), and this process leads one.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")


def _leave(number: int, frame: Any) -> None:
    """Asked to end before serving began."""
    sys.exit(0)


def _end_with_last_user(path: Path) -> None:
    """Ask this process to end as soon as nobody holds the users' lock, and insist if it does not."""
    with open(path, "ab") as users:
        while not _alone(users.fileno()):
            time.sleep(LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_WITHIN_S)
        os._exit(1)


def _alone(descriptor: int) -> bool:
    """Whether the lock could be taken alone; a new user then waits for our end and starts afresh."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
