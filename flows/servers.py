"""Prefect's and MLflow's servers as a command needs them: its own, the user's, or both interfaces at once."""

from __future__ import annotations

import functools
import os
import signal
import threading
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Self
from urllib.parse import urlsplit

from components.errors import ServiceError
from components.tracking.links import experiments_url
from flows.embedded_mlflow import start_mlflow
from flows.embedded_prefect import EmbeddedPrefect
from flows.embedded_server import LOOPBACK, EmbeddedServer, RunningServer, flush_prefect_events
from flows.local_record import POSTGRESQL, addresses, recorded_database

__all__ = [
    "EmbeddedPrefect", "EmbeddedServer", "RunningServer", "UserPrefect", "check_reachable", "flush_prefect_events",
    "nothing_recorded", "open_prefect", "page_of", "prefect_environment", "serve_ui", "start_mlflow", "users_prefect",
]  # fmt: skip

# What every process of ours that uses Prefect wants, whichever server it talks to.
_CLIENT = {
    # A traceback may hold a patient's name; logs stay where they were written.
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    # What goes wrong is raised, and recorded; Prefect would say it a second time, with a traceback.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    # Never a pickle, should a result be persisted all the same.
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # Without an address Prefect would start a server inside this process and hide the mistake.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
INTERFACES = {"MLflow": "MLflow  (models, metrics)", "Prefect": "Prefect (flows, rounds)  "}  # as they are said

# Marks a PREFECT_API_URL in this process as set by us, so that a second training does not take it for the user's.
_OURS = "WARDROUND_EMBEDDED_PREFECT"


def prefect_environment(api_url: str, home: Path | None, *, user: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment variables a process needs *before* it imports prefect.

    Args:
        api_url: Address of the Prefect API.
        home: The WardRound home, for its embedded server; None for a server of the user's own, whose
            Prefect profile (passwords, certificates) then stays in use.
        user: Variables the user has set; where one of them is among ours, the user's stays, except the
            address.
    """
    chosen = {name: value for name, value in (user or {}).items() if name in _CLIENT}
    own = {"PREFECT_HOME": str(home.absolute() / "prefect"), _OURS: api_url} if home is not None else {}
    return {**_CLIENT, **chosen, **own, "PREFECT_API_URL": api_url}


class UserPrefect:
    """A Prefect server that the user chose with PREFECT_API_URL; it is asked, never started or stopped.

    Attributes:
        api_url: Its address.
    """

    def __init__(self, api_url: str) -> None:
        self.api_url = api_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, timeout_s: float = 5) -> None:
        """Ask it once.

        Raises:
            ServiceError: It does not answer within `timeout_s` seconds.
        """
        check_reachable(self.api_url, name="Prefect", timeout_s=timeout_s)

    def stop(self) -> None:
        """Send what Prefect's client still holds; the server goes on."""
        flush_prefect_events()


def open_prefect(home: Path) -> EmbeddedServer | UserPrefect:
    """The Prefect server that trainings of this home use: the user's, or else the embedded one, starting now.

    Both are context managers with ``api_url``, ``wait_ready`` and ``stop``.

    Raises:
        ServiceError: The user's server cannot be reached.
        StorageError: The home cannot be written.
    """
    chosen = os.environ.get("PREFECT_API_URL", "")
    if not chosen or chosen == os.environ.get(_OURS):
        # With its interface, which costs nothing measurable: `wardround ui` may want it while the training runs.
        return EmbeddedPrefect.start(home, ui=True)
    user = UserPrefect(chosen)
    user.wait_ready()
    return user


def check_reachable(url: str, *, name: str, timeout_s: float = 5) -> None:
    """Ask a server once whether it works, so that a wrong address costs seconds and not minutes of retries.

    Args:
        url: Address as the user gave it: Prefect's ends in ``/api``, MLflow's is the bare address. One that
            is not HTTP (MLflow's ``sqlite:///``) is not asked.
        name: ``Prefect`` or ``MLflow``, for the message.
        timeout_s: Seconds to wait for the answer.

    Raises:
        ServiceError: It does not answer, or not as this server should.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        return
    variable = {"Prefect": "PREFECT_API_URL", "MLflow": "MLFLOW_TRACKING_URI"}.get(name, "the address")
    advice = f"Start it, correct {variable}, or unset {variable} to use the embedded {name}."
    try:
        with _opener(url).open(f"{url.rstrip('/')}/health", timeout=timeout_s) as answer:
            answer.read(64)
    except urllib.error.HTTPError as error:
        error.close()
        raise ServiceError(f"{name} at {url} answered {error.code} {error.reason} to /health. {advice}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ServiceError(f"{name} at {url} cannot be reached ({reason}). {advice}") from error


def serve_ui(
    home: Path,
    prefect_port: int,
    mlflow_port: int,
    open_browser: bool = False,
    *,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> int:
    """Serve both user interfaces over a home until Ctrl-C, SIGTERM, or `stop`.

    Where the user has a server of their own (``PREFECT_API_URL``, ``MLFLOW_TRACKING_URI``), or the home's
    federation is up, trainings are recorded there: its address is said and nothing is started in its place.

    Args:
        home: The WardRound home.
        prefect_port: TCP port for Prefect's interface; 0 takes any free one.
        mlflow_port: TCP port for MLflow's interface; 0 takes any free one.
        open_browser: Whether to open both in the user's browser.
        say: Receives each line for the user.
        stop: Set from elsewhere to end it, in place of Ctrl-C.

    Returns:
        The exit status, 0.

    Raises:
        ServiceError: A port is in use, or a server did not start, or ended by itself.
    """
    show = functools.partial(_show, say=say, open_browser=open_browser)
    served = _served_already(home)
    for name, (url, remark) in served.items():
        show(name, url, remark)
    if len(served) == len(INTERFACES):
        return 0
    if "MLflow" not in served and not (home / "mlflow.db").exists():
        say(nothing_recorded(home))
        return 0
    stop = stop or threading.Event()
    with ExitStack() as stack, _Stopping(stop):
        servers: dict[str, EmbeddedServer] = {}
        if "Prefect" not in served:
            servers["Prefect"] = stack.enter_context(EmbeddedPrefect.start(home, ui=True, port=prefect_port))
        if "MLflow" not in served:
            servers["MLflow"] = stack.enter_context(start_mlflow(home, mlflow_port))
        for name in sorted(servers):
            server = servers[name]
            if not _ready(server, stop):
                return 0
            show(name, server.server.url, "  (was running already)" if server.reused else "")
        say(f"Ctrl-C ends {'both' if len(servers) == 2 else 'it'}.")
        while not stop.wait(0.2):
            for server in servers.values():
                server.check_running()
    return 0


def _served_already(home: Path) -> dict[str, tuple[str, str]]:
    """Return the interfaces that need no server of ours, with a remark: the user's own, and the federation's."""
    users = {"MLflow": _users_mlflow(), "Prefect": users_prefect()}
    found = {name: (url, "  (your own)") for name, url in users.items() if url}
    federation = addresses(home)
    if federation is None:
        return found
    remark = "  (the federation's, until wardround down)"
    return {"MLflow": (federation.mlflow, remark), "Prefect": (federation.prefect, remark), **found}


def nothing_recorded(home: Path) -> str:
    """Return what to tell a user who looks for records where the home has no database file."""
    if recorded_database(home) == POSTGRESQL:
        return f"What {home.absolute()} recorded is in PostgreSQL, which is not running. Start it: wardround up STUDY"
    return f"Nothing is recorded in {home.absolute()} yet. Run a training first, for example: wardround demo"


def _show(name: str, url: str, remark: str, *, say: Callable[[str], None], open_browser: bool) -> None:
    """Say where an interface is, and open it if that is wanted."""
    page = page_of(name, url)
    say(f"{INTERFACES[name]}  {page}{remark}")
    if open_browser:
        webbrowser.open(page)


def page_of(name: str, url: str) -> str:
    """Return the address of the page of an interface, by its name in `INTERFACES`, that shows what is recorded."""
    return experiments_url(url) if name == "MLflow" else url


def users_prefect() -> str:
    """Return the interface of the user's own Prefect server; empty if trainings use the embedded one."""
    chosen = os.environ.get("PREFECT_API_URL", "")
    return "" if chosen == os.environ.get(_OURS) else chosen.removesuffix("/").removesuffix("/api")


def _users_mlflow() -> str:
    """Return the interface of the user's own MLflow server; empty if trainings use the home's database."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI", "")
    return chosen if urlsplit(chosen).scheme in ("http", "https") else ""


def _ready(server: EmbeddedServer, stop: threading.Event) -> bool:
    """Wait for a server; False if the user wants to end meanwhile."""
    waiting = threading.Thread(target=_suppressed_wait, args=(server,), daemon=True)
    waiting.start()
    while waiting.is_alive():
        if stop.wait(0.05):
            return False
        waiting.join(0.05)
    server.wait_ready(1)
    return True


def _suppressed_wait(server: EmbeddedServer) -> None:
    """Wait in a thread; the caller asks again and gets the error."""
    try:
        server.wait_ready()
    except ServiceError:
        return


class _Stopping:
    """While inside, SIGINT and SIGTERM set an event instead of interrupting."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()


def _opener(url: str) -> urllib.request.OpenerDirector:
    """An opener that goes around a proxy for this machine's own addresses."""
    local = urlsplit(url).hostname in (LOOPBACK, "localhost", "::1")
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
