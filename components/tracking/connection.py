"""The border to MLflow: a client that is known to work, and MLflow's errors as ours."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import mlflow.db
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from components.errors import ServiceError, StorageError, WardRoundError

REACH_S = 3.0
# MLflow's own defaults wait for minutes. These survive a server's restart (1+2+4+8+16 s) and then speak.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # it would be drawn over our own
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # links are shown where the training ends
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_DISK_SIGNS = {
    "disk is full": "the disk is full; free some space",
    "No space left": "the disk is full; free some space",
    "readonly database": "the file may not be written to; check its permissions",
    "unable to open database": "the file cannot be opened; check the folder and its permissions",
    "Permission denied": "permission is denied; check the owner of the folder",
    "database is locked": "another process holds the database; end it or wait for it",
    "malformed": "the file is damaged; restore it from a backup",
    "not a database": "the file is not a database; move it away or name another one",
    "disk I/O error": "the disk reports errors; check it before going on",
}


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client for tracking and registry, after a check of seconds that both can be used.

    A SQLite file that does not exist yet is made. The first call in a process takes 1 to 3 s (imports, and
    for a new file MLflow's migrations), so call it beside something else. Sets `SETTINGS` in the environment,
    where nobody has set them yet.

    Args:
        tracking_uri: ``sqlite:///FILE``, ``postgresql://...`` or ``http(s)://...``.

    Raises:
        ServiceError: If the server cannot be reached or does not answer as MLflow does.
        StorageError: If the database file cannot be made, read or written.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    scheme = urlsplit(tracking_uri).scheme
    if scheme in ("http", "https"):
        _check_server(tracking_uri)
    elif scheme == "sqlite":
        prepare_database(tracking_uri)
    else:
        _check_port(tracking_uri)
        if scheme == "postgresql":  # the driver that is installed
            tracking_uri = tracking_uri.replace("postgresql:", "postgresql+psycopg:", 1)
    with mlflow_errors("open the tracking database", tracking_uri):
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def prepare_database(tracking_uri: str) -> None:
    """Make MLflow's SQLite file if there is none, whole or not at all; else check that it can be written.

    MLflow's migrations are not one transaction: a process killed among them would leave a file that no
    later start accepts. So they run on a file beside it, which then takes its name in one step.

    Raises:
        StorageError: If the file is not a database, or it or its folder cannot be written.
    """
    file = sqlite_file(tracking_uri)
    with mlflow_errors("prepare the tracking database", tracking_uri):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            _check_writable(file)
            return
        draft = file.with_name(f"{file.name}.{os.getpid()}.new")
        draft.unlink(missing_ok=True)
        try:
            with _quiet(logging.getLogger("mlflow.store.db.utils")):
                mlflow.db.upgrade.main([f"sqlite:///{draft}"], standalone_mode=False)
            _take_name(draft, file)
        finally:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep progress lines of a library off the user's screen."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _take_name(draft: Path, file: Path) -> None:
    """Give the draft its name, unless another process was faster: then its file is as good."""
    try:
        os.link(draft, file)
    except FileExistsError:
        return
    except OSError:  # no hard links on this file system
        os.replace(draft, file)


def sqlite_file(tracking_uri: str) -> Path:
    """Return the absolute path of the file behind ``sqlite:///FILE``.

    Raises:
        ValueError: If the address names no file.
    """
    database = make_url(tracking_uri).database
    if not database or database == ":memory:":
        raise ValueError(f"{tracking_uri} names no file; use sqlite:///path/to/mlflow.db")
    return Path(database).absolute()


@contextlib.contextmanager
def mlflow_errors(action: str, where: str) -> Iterator[None]:
    """Turn every error of MLflow and what lies under it into ours, with one clear message.

    Args:
        action: What was being done, as in "cannot <action>".
        where: Address of the server, database or folder; a password in it is not repeated.

    Raises:
        StorageError: If a disk or a file is the cause.
        ServiceError: Otherwise.
    """
    try:
        yield
    except WardRoundError:
        raise
    except requests.RequestException as error:
        raise ServiceError(_message(action, where, f"{type(error).__name__}; is the server running?")) from error
    except OSError as error:
        raise StorageError(_message(action, where, error.strerror or str(error))) from error
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        raise _database_or_service(action, where, str(error)) from error


def _database_or_service(action: str, where: str, text: str) -> WardRoundError:
    """Tell a full or forbidden disk from everything else that MLflow reports."""
    for sign, advice in _DISK_SIGNS.items():
        if sign in text:
            return StorageError(_message(action, where, advice))
    if "Max retries exceeded" in text or "Connection refused" in text or "timed out" in text:
        return ServiceError(_message(action, where, "the server does not answer; is it running?"))
    return ServiceError(
        _message(action, where, text.strip().splitlines()[0][:300] if text.strip() else "no reason given")
    )


def _message(action: str, where: str, reason: str) -> str:
    """One line: what was tried, where, and why it failed."""
    return f"cannot {action} in MLflow at {hide_password(where)}: {reason}"


def hide_password(address: str) -> str:
    """Return the address without the password in it.

    >>> hide_password("postgresql://ward:secret@db.example/mlflow")
    'postgresql://ward:***@db.example/mlflow'
    """
    password = urlsplit(address).password
    return address.replace(f":{password}@", ":***@", 1) if password else address


def _check_server(uri: str) -> None:
    """Ask the server's health page, once."""
    address = f"{uri.rstrip('/')}/health"
    try:
        answer = requests.get(address, timeout=REACH_S)
    except requests.RequestException as error:
        reason = f"no answer within {REACH_S:g} s ({type(error).__name__}); is `mlflow server` running there?"
        raise ServiceError(_message("reach the server", uri, reason)) from error
    if answer.status_code != 200:
        reason = f"{address} answers {answer.status_code}, not 200; is this address an MLflow server's?"
        raise ServiceError(_message("use the server", uri, reason))


def _check_port(uri: str) -> None:
    """See that something listens where the database should be; MLflow itself would try for 100 s."""
    parts = urlsplit(uri)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if not parts.hostname or port is None:
        reason = "the address must be sqlite:///FILE, postgresql://... or http(s)://..."
        raise ServiceError(_message("open the tracking database", uri or "''", reason))
    try:
        socket.create_connection((parts.hostname, port), timeout=REACH_S).close()
    except OSError as error:
        raise ServiceError(_message("reach the database", uri, f"{error}; is it running?")) from error


def _check_writable(file: Path) -> None:
    """Take and drop SQLite's write lock, which needs a sound and writable file."""
    with contextlib.closing(sqlite3.connect(file, timeout=REACH_S)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        database.execute("ROLLBACK")
