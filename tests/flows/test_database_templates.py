"""Templates: a copy is whole or absent, and a home is never overwritten."""

import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.database_templates import (
    cache_folder,
    copy_database,
    keep_template,
    mlflow_edition,
    prefect_edition,
    seed_database,
    template_path,
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_database(path: Path, value: str) -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE item (name TEXT)")
        database.execute("INSERT INTO item VALUES (?)", [value])
    return path


def read(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return [name for (name,) in database.execute("SELECT name FROM item")]


def test_cache_folder_ignores_a_relative_xdg_cache_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert cache_folder() == Path.home() / ".cache" / "wardround"


def test_template_is_kept_per_edition(cache: Path) -> None:
    assert template_path(prefect_edition()).parent == cache / "wardround" / "databases"
    assert prefect_edition().startswith(f"prefect-{version('prefect')}-")
    assert mlflow_edition() == f"mlflow-{version('mlflow')}"


def test_copy_holds_what_was_committed_and_leaves_one_file(tmp_path: Path) -> None:
    source = make_database(tmp_path / "source.db", "chest")
    copy_database(source, tmp_path / "deep" / "target.db")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["target.db"]
    assert read(tmp_path / "deep" / "target.db") == ["chest"]


def test_copy_of_no_database_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "source.db").write_bytes(b"not a database, but long enough to be looked at " * 50)
    with pytest.raises(sqlite3.DatabaseError):
        copy_database(tmp_path / "source.db", tmp_path / "deep" / "target.db")
    assert list((tmp_path / "deep").iterdir()) == []


def test_seed_does_nothing_without_a_template(cache: Path, tmp_path: Path) -> None:
    assert not seed_database(tmp_path / "prefect.db", "prefect")
    assert not (tmp_path / "prefect.db").exists()


def test_seed_never_overwrites_a_home(cache: Path, tmp_path: Path) -> None:
    keep_template(make_database(tmp_path / "template.db", "empty"), "prefect")
    home = make_database(tmp_path / "prefect.db", "recorded")
    assert not seed_database(home, "prefect")
    assert read(home) == ["recorded"]


def test_seed_makes_a_fresh_home_from_the_template(cache: Path, tmp_path: Path) -> None:
    keep_template(make_database(tmp_path / "template.db", "migrated"), "prefect")
    assert seed_database(tmp_path / "home" / "prefect.db", "prefect")
    assert read(tmp_path / "home" / "prefect.db") == ["migrated"]


def test_damaged_template_counts_as_none(cache: Path, tmp_path: Path) -> None:
    template_path("prefect").parent.mkdir(parents=True)
    template_path("prefect").write_bytes(b"damaged" * 1000)
    assert not seed_database(tmp_path / "prefect.db", "prefect")
    assert not (tmp_path / "prefect.db").exists()


def test_cache_that_cannot_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep_template(make_database(tmp_path / "template.db", "x"), "prefect")
    assert (tmp_path / "cache").read_text() == "a file where the folder should be"
