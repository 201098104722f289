import os
from pathlib import Path

import pytest

from components.errors import StorageError
from flows import home as homes


def test_the_folder_asked_for_comes_before_the_variable_and_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WARDROUND_HOME", raising=False)
    assert homes.home_folder() == tmp_path / ".wardround"
    monkeypatch.setenv("WARDROUND_HOME", "recorded")
    assert homes.home_folder() == tmp_path / "recorded"
    assert homes.home_folder(Path("given")) == tmp_path / "given"


def test_a_home_in_the_users_own_folder_may_be_written_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert homes.home_folder(Path("~/ward")) == Path("/somewhere/ward")


def test_opening_makes_the_folder_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    assert homes.open_home(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_home_below_a_file_is_refused_with_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"a file, not a folder .*{tmp_path}/file/home.*--home"):
        homes.open_home(tmp_path / "file" / "home")


def test_a_disk_without_room_is_refused_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spare = homes.free_bytes(tmp_path) >> 20
    monkeypatch.setattr(homes, "NEEDED_MB", spare + 1024)
    with pytest.raises(StorageError, match=rf"has \d+ MB to spare, a training needs {spare + 1024} or more"):
        homes.open_home(tmp_path)


def test_a_disk_is_full_below_a_megabyte_and_one_that_is_gone_is_not_known_to_be(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert homes.is_full(tmp_path) == (found.f_bavail * found.f_frsize < 1 << 20)
    assert not homes.is_full(tmp_path / "gone")
