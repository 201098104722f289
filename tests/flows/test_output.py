"""What a command writes never takes the place of what it reads."""

import os
from pathlib import Path

import pytest

from components.errors import StorageError, StudyError
from flows.output import require_apart, write_output
from tests.command_line import Run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of patients in a folder of its own."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "patients.csv"
    path.write_text("age\n61\n")
    return path


@pytest.mark.parametrize("kind", ["itself", "symlink", "hardlink", "a detour"])
def test_what_is_read_is_not_written_by_whatever_name(table: Path, tmp_path: Path, kind: str) -> None:
    other = {"itself": table, "a detour": tmp_path / "in" / ".." / "in" / "patients.csv"}.get(kind, tmp_path / "x.csv")
    if kind == "symlink":
        other.symlink_to(table)
    if kind == "hardlink":
        os.link(table, other)
    with pytest.raises(StudyError, match="give the new file another name"):
        require_apart(other, [tmp_path / "none", table])
    require_apart(table.with_name("scores.csv"), [table])


@pytest.mark.parametrize("place", ["in/scores.csv", "in/deep/scores.csv", "link/scores.csv"])
def test_nothing_is_written_into_a_folder_that_is_read(table: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "in" / "deep").mkdir()
    (tmp_path / "link").symlink_to(table.parent)
    with pytest.raises(StudyError, match="lies inside"):
        require_apart(tmp_path / place, [table.parent])
    require_apart(tmp_path / "scores.csv", [table.parent])


def test_a_folder_that_is_not_there_is_named_whole(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as told:
        require_apart(Path("/nonexistent/dir/out.csv"), [])
    assert str(told.value).startswith("cannot write /nonexistent/dir/out.csv: there is no folder /nonexistent/dir;")
    with pytest.raises(StorageError, match="name a file in it"):
        require_apart(tmp_path, [])


def test_a_file_is_replaced_whole_through_a_link_and_keeps_who_may_read_it(tmp_path: Path) -> None:
    kept, link = tmp_path / "kept.csv", tmp_path / "link.csv"
    kept.write_text("before")
    kept.chmod(0o600)
    link.symlink_to(kept)
    write_output(link, "after")
    assert (kept.read_text(), link.is_symlink(), kept.stat().st_mode & 0o777) == ("after", True, 0o600)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_file_is_written_to_as_it_is() -> None:
    write_output(Path("/dev/null"), "scores")
    assert Path("/dev/null").is_char_device()


def test_commands_leave_the_patients_table_as_it_was(wardround: Run, table: Path, tmp_path: Path) -> None:
    study = Path("studies/heart.yaml").resolve()
    for arguments in (
        ("predict", "models:/heart@champion", str(table), "-o", str(table)),
        ("records", str(study), str(table), "-o", str(table)),
        ("records", str(study), str(table.parent), "-o", str(table.with_name("new.csv"))),
        ("records", str(study), str(table), "-o", str(study)),
    ):
        told = wardround(*arguments)
        assert (told.code, "which is read" in " ".join(told.err.split())) == (2, True), told
    assert table.read_text() == "age\n61\n"
    nowhere = wardround("predict", "models:/heart@champion", str(table), "-o", "/nonexistent/dir/out.csv")
    assert (nowhere.code, "no folder /nonexistent/dir;" in " ".join(nowhere.err.split())) == (6, True)
