import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows import embedded_prefect_child
from flows.database_templates import prefect_edition, template_path
from flows.embedded_prefect_child import bring_up_to_date


@pytest.fixture
def migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Databases that were migrated; migrating itself takes ten seconds and is Prefect's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done: list[Path] = []

    def migrate(database: Path) -> None:
        done.append(database)
        make_database(database)

    monkeypatch.setattr(embedded_prefect_child, "_migrate", migrate)
    return done


def make_database(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS flow (id)")
        database.commit()


def test_a_first_home_is_migrated_and_leaves_a_template(tmp_path: Path, migrated: list[Path]) -> None:
    (tmp_path / "home").mkdir()
    bring_up_to_date(tmp_path / "home/prefect.db")
    assert len(migrated) == 1
    assert template_path(prefect_edition()).exists()
    assert (tmp_path / "home/prefect.db").exists()


@pytest.mark.parametrize("again", [False, True])
def test_a_home_from_the_template_is_not_migrated(tmp_path: Path, migrated: list[Path], again: bool) -> None:
    make_database(template_path(prefect_edition()))
    (tmp_path / "home").mkdir()
    for _ in range(1 + again):
        bring_up_to_date(tmp_path / "home/prefect.db")
    assert migrated == []


def test_a_home_of_another_edition_is_migrated_once(tmp_path: Path, migrated: list[Path]) -> None:
    make_database(tmp_path / "home/prefect.db")
    (tmp_path / "home/edition").write_text("prefect-2.0.0")
    for _ in range(2):
        bring_up_to_date(tmp_path / "home/prefect.db")
    assert migrated == [tmp_path / "home/prefect.db"]
