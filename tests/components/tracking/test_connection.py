import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from components.errors import DataError, ServiceError, StorageError
from components.tracking.connection import connect, mlflow_errors, prepare_database, sqlite_file


def test_a_missing_server_is_one_message_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(ServiceError, match=f"cannot reach the server in MLflow at {address}.*mlflow server"):
        connect(address)
    assert time.monotonic() - started < 5


def test_another_programs_address_is_noticed(other_server: str) -> None:
    with pytest.raises(ServiceError, match="answers 404, not 200"):
        connect(other_server)


@pytest.fixture
def other_server() -> Iterator[str]:
    """A web server that is not MLflow's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        child = os.fork()
        if child == 0:
            answer, _ = listening.accept()
            answer.recv(65536)
            answer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            os._exit(0)
        yield address
        os.waitpid(child, 0)


def test_a_missing_database_server_is_one_message_without_the_password() -> None:
    with pytest.raises(ServiceError, match=r"postgresql://ward:\*\*\*@127.0.0.1:1/mlflow: .*is it running") as caught:
        connect("postgresql://ward:secret@127.0.0.1:1/mlflow")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "mlruns", "file:///tmp/mlruns"])
def test_an_address_of_no_known_kind_is_refused(address: str) -> None:
    with pytest.raises((ServiceError, ValueError), match="sqlite:///FILE"):
        connect(address)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"my thesis" * 1000)
    started = time.monotonic()
    with pytest.raises(StorageError, match="not a database; move it away"):
        connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert time.monotonic() - started < 15
    assert (tmp_path / "mlflow.db").read_bytes().startswith(b"my thesis")


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot prepare the tracking database"):
        connect(f"sqlite:///{tmp_path / 'file' / 'home' / 'mlflow.db'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_database_is_a_storage_error(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    (tmp_path / "mlflow.db").chmod(0o400)
    with pytest.raises(StorageError, match="may not be written"):
        connect(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_locked_database_is_a_storage_error(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="another process holds the database"):
            connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
        other.execute("ROLLBACK")
    other.close()


def test_an_existing_database_is_not_made_again(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    before = (tmp_path / "mlflow.db").read_bytes()
    prepare_database(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_process_killed_while_making_the_database_leaves_none(tmp_path: Path) -> None:
    """The child is stopped for good as soon as the first migration has written something."""
    code = f"from components.tracking.connection import prepare_database as p; p('sqlite:///{tmp_path}/mlflow.db')"
    root = Path(__file__).parents[3]
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "PYTHONPATH": str(root)})
    limit = time.monotonic() + 120
    while not any(file.stat().st_size for file in tmp_path.glob("*.new")):
        assert child.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "mlflow.db").exists()

    connect(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()


ERRORS = [
    (requests.ConnectionError("refused"), ServiceError, "ConnectionError; is the server running"),
    (PermissionError(13, "Permission denied"), StorageError, "Permission denied"),
    (OSError(28, "No space left on device"), StorageError, "No space left on device"),
    (MlflowException("(sqlite3.OperationalError) database or disk is full"), StorageError, "the disk is full"),
    (OperationalError("x", None, sqlite3.OperationalError("attempt to write a readonly database")), StorageError,
     "may not be written to"),
    (sqlite3.DatabaseError("database disk image is malformed"), StorageError, "the file is damaged"),
    (MlflowException("API request failed: Max retries exceeded with url"), ServiceError, "does not answer"),
    (MlflowException("No such version\nTraceback: secret"), ServiceError, "No such version$"),
    (MlflowException(""), ServiceError, "no reason given"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "expected", "message"), ERRORS)
def test_errors_of_mlflow_become_ours(error: Any, expected: Any, message: Any) -> None:
    with pytest.raises(expected, match=message) as caught, mlflow_errors("do it", "sqlite:///x.db"):
        raise error
    assert str(caught.value).startswith("cannot do it in MLflow at sqlite:///x.db: ")
    assert "\n" not in str(caught.value)


def test_our_own_errors_pass_unchanged() -> None:
    with pytest.raises(DataError, match=r"^as it was$"), mlflow_errors("do it", "sqlite:///x.db"):
        raise DataError("as it was")


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="names no file"):
        sqlite_file("sqlite://")
