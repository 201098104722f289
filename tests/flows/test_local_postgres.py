"""PostgreSQL of a home's own, run for real where it is installed."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from components.errors import ServiceError
from flows import local_postgres
from flows.database_secrets import SERVERS, database_url, make_passwords
from flows.local_parts import ProgramPart
from flows.local_postgres import LocalPostgres, PostgresMissingError, find_postgres, free_port
from tests.references.open_folder import open_folder


@dataclass(frozen=True)
class Running:
    """A PostgreSQL that runs."""

    postgres: LocalPostgres
    part: ProgramPart
    port: int
    passwords: Path

    def url(self, name: str, *, database: str = "", host: str = "127.0.0.1") -> str:
        own = database_url(name, host=host, port=self.port, passwords=self.passwords, driver="postgresql")
        return own.replace(f"/{name}?", f"/{database or name}?")

    def names(self) -> set[str]:
        with psycopg.connect(self.url("gateway")) as connection:
            return {row[0] for row in connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with open_folder() as folder:
        try:
            postgres = find_postgres(folder / "postgresql")
        except PostgresMissingError as error:
            pytest.skip(str(error))
        passwords, port = folder / "passwords", free_port()
        postgres.make(passwords)
        part = ProgramPart(
            "PostgreSQL", postgres.command(port), folder / "log", ends_with=signal.SIGINT, **postgres.ownership
        )
        part.start()
        try:
            postgres.wait_ready(port, lambda: part.ended)
            postgres.make_databases(port, passwords)
            yield Running(postgres, part, port, passwords)
        finally:
            part.end()


def test_each_server_has_a_database_that_it_owns(running: Running) -> None:
    assert running.names() == {*SERVERS, "postgres"}
    for name in SERVERS:
        with psycopg.connect(running.url(name)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS here (i int)")


@pytest.mark.parametrize(("name", "other"), [("gateway", "mlflow"), ("mlflow", "prefect"), ("prefect", "postgres")])
def test_no_server_enters_another_s_database(running: Running, name: str, other: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(running.url(name, database=other)).close()


def test_a_password_is_asked_for_even_on_the_loopback(running: Running) -> None:
    address = f"postgresql://gateway@127.0.0.1:{running.port}/gateway"
    for given in ("", "?password=guessed"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(address + given).close()


def test_passwords_are_in_files_that_only_their_owner_reads(running: Running) -> None:
    files = sorted(running.passwords.iterdir())
    assert [path.name for path in files] == [
        "gateway.pgpass", "mlflow.pgpass", "postgres.password", "postgres.pgpass", "prefect.pgpass",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    said = " ".join(running.postgres.command(running.port)) + running.url("mlflow")
    assert not any(path.read_text().strip().rpartition(":")[2] in said for path in files)


def test_made_again_everything_stays_and_a_new_password_counts(running: Running) -> None:
    with psycopg.connect(running.url("mlflow")) as connection:
        connection.execute("CREATE TABLE kept (i int)")
    file = running.passwords / "mlflow.pgpass"
    old = file.read_text()
    file.unlink()
    make_passwords(running.passwords)
    assert file.read_text() != old
    running.postgres.make(running.passwords)
    running.postgres.make_databases(running.port, running.passwords)
    with psycopg.connect(running.url("mlflow")) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_failed_statement_is_told_in_one_line(running: Running, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"psql failed: .*password"):
        running.postgres.make_databases(running.port, tmp_path)


def test_it_listens_on_the_loopback_alone_and_has_no_socket_file(running: Running) -> None:
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    port = f"{running.port:04X}"
    assert [place for place in listening if place.endswith(f":{port}")] == [f"0100007F:{port}"]
    opened = (running.postgres.data / "postmaster.pid").read_text().splitlines()
    assert opened[4] == ""  # the folder of its socket


def test_data_of_another_version_is_not_touched(running: Running, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(PostgresMissingError, match=r"PostgreSQL 9, which made .* is not installed"):
        find_postgres(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only for root does it run as another user")
def test_for_root_a_folder_that_others_may_not_enter_is_refused(running: Running, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(PostgresMissingError, match=r"may not enter .*chmod o"):
        find_postgres(tmp_path / "postgresql")


def test_where_none_is_installed_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local_postgres, "_DEBIAN", str(tmp_path))
    with pytest.raises(PostgresMissingError, match="PostgreSQL is not installed"):
        find_postgres(tmp_path / "postgresql")


def test_one_that_does_not_come_up_is_told_with_its_log(running: Running) -> None:
    with pytest.raises(ServiceError, match="log says why"):
        running.postgres.wait_ready(free_port(), lambda: True)
