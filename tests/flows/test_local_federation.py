"""Where the federation of a home records, and what `wardround up` and `wardround ui` say of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.analytics.plan import Disclosure
from components.errors import ServiceError
from components.governance.hospital_settings import read_settings
from components.site_source import SiteSource, SourcePart
from flows import local_federation, local_postgres, local_record
from flows.local_federation import LocalHospital, choose_database
from flows.local_postgres import PostgresMissingError, find_postgres
from tests.command_line import Run
from tests.references.open_folder import open_folder
from tests.references.tiny_study import write_films, write_study


@pytest.fixture
def home() -> Iterator[Path]:
    """A home in which PostgreSQL could run; skips where it is not installed."""
    with open_folder() as folder:
        try:
            find_postgres(folder / "federation" / "postgresql")
        except PostgresMissingError as error:
            pytest.skip(str(error))
        yield folder


@pytest.fixture
def without_postgres(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(local_postgres, "_DEBIAN", str(tmp_path / "nothing"))


def test_postgresql_is_taken_where_it_is_installed_and_kept_to(home: Path) -> None:
    assert choose_database(home, "auto").startswith("PostgreSQL 1")
    assert local_record.recorded_database(home) == "postgresql"
    (home / "mlflow.db").touch()  # a simulation in the same home, later
    assert choose_database(home, "auto").startswith("PostgreSQL 1")
    with pytest.raises(ServiceError, match="records in postgresql: leave --database out"):
        choose_database(home, "sqlite")


def test_a_home_with_records_in_sqlite_keeps_to_sqlite(home: Path) -> None:
    (home / "mlflow.db").touch()
    assert choose_database(home, "auto") == "SQLite (this home's records are in it already)"
    assert local_record.recorded_database(home) == "sqlite"


def test_a_federation_made_before_there_was_a_choice_is_sqlite(home: Path) -> None:
    (home / "federation" / "gateway.db").touch()
    assert choose_database(home, "auto") == "SQLite"


@pytest.mark.usefixtures("without_postgres")
def test_without_postgresql_it_is_sqlite_unless_postgresql_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PostgresMissingError, match="PostgreSQL is not installed"):
        choose_database(tmp_path, "postgresql")
    assert choose_database(tmp_path, "auto") == "SQLite (PostgreSQL is not installed)"


@pytest.mark.usefixtures("without_postgres")
def test_records_in_postgresql_are_not_forgotten_where_it_was_removed(tmp_path: Path) -> None:
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "database").write_text("postgresql\n")
    with pytest.raises(PostgresMissingError, match="PostgreSQL is not installed"):
        choose_database(tmp_path, "auto")


def test_while_it_is_down_the_interfaces_say_where_the_records_are(wardround: Run, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "federation"
    folder.mkdir(parents=True)
    (folder / "database").write_text("postgresql\n")
    said = " ".join(wardround("ui").out.split())
    assert "recorded is in PostgreSQL, which is not running. Start it: wardround up" in said


def test_a_server_of_the_home_that_somebody_else_started_is_not_taken_over(wardround: Run, tmp_path: Path) -> None:
    write_films(tmp_path)
    study, home = write_study(tmp_path), tmp_path / "home"
    held = "import sys; from pathlib import Path; from flows.servers import EmbeddedPrefect as P\n"
    held += "with P.start(Path(sys.argv[1])): print('up', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", held, str(home)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)}
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        done = wardround("up", str(study), "--database", "sqlite")
        assert other.poll() is None
        other.communicate(b"")
    assert (done.code, "the Prefect server of this home runs already" in " ".join(done.err.split())) == (7, True)
    assert local_federation.supervisor(home) is None
    assert not (home / "federation" / "parts.json").exists()


def hospital(name: str, study: str, disclosure: Disclosure | None = None) -> LocalHospital:
    source = SiteSource(name=name, parts=[SourcePart(site=name, kind="folder", path=f"/{study}")])
    return LocalHospital(name, study, source, disclosure)


def test_a_hospital_keeps_the_data_of_earlier_studies(tmp_path: Path) -> None:
    local_federation.write_hospitals(tmp_path, [hospital("site-1", "trial", Disclosure(smallest_cell=9))])
    local_federation.write_hospitals(tmp_path, [hospital(name, "chest") for name in ("site-1", "site-2")])
    assert local_federation.studies_of_hospitals(tmp_path) == {"chest": ["site-1", "site-2"], "trial": ["site-1"]}
    settings = read_settings(tmp_path / "federation" / "hospitals" / "site-1")
    assert settings.disclosure == Disclosure(smallest_cell=9)
    strict = [hospital("site-1", "one", Disclosure(smallest_cell=9)), hospital("site-1", "two", Disclosure())]
    local_federation.write_hospitals(tmp_path, strict)
    settings = read_settings(tmp_path / "federation" / "hospitals" / "site-1")
    assert (sorted(settings.sources), settings.disclosure.smallest_cell) == (["chest", "one", "trial", "two"], 9)
