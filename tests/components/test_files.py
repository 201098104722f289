import errno
import os
from pathlib import Path
from typing import Any

import pytest

from components.errors import StorageError
from components.files import (
    _HINTS,
    link_once,
    make_folder,
    remove_if_abandoned,
    replace_file,
    shown,
    storage_errors,
    temporary_file,
    write_all,
)


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_becomes_a_message(number: Any) -> None:
    path = Path("/home/a-person/secret/store/objects/abc")
    with pytest.raises(StorageError) as caught, storage_errors("write", path):
        raise OSError(number, os.strerror(number), str(path))
    assert str(caught.value) == f"cannot write store/objects/abc: {_HINTS.get(number, os.strerror(number))}"
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), storage_errors("read", Path("x")):
        raise ValueError("mine")


@pytest.mark.parametrize(("path", "text"), [("/a/b", "/a/b"), ("x", "x"), ("/x/y/z", "/x/y/z"), ("/w/x/y/z", "x/y/z")])
def test_only_the_last_parts_of_a_path_are_shown(path: str, text: str) -> None:
    assert shown(Path(path)) == text


def write_half(folder: Path) -> None:
    with temporary_file(folder) as (path, descriptor):
        write_all(descriptor, b"half")
        assert path.read_bytes() == b"half"
        raise RuntimeError


def test_a_temporary_file_is_gone_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_use_is_not_abandoned(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as (path, descriptor):
        write_all(descriptor, b"12345")
        assert remove_if_abandoned(path) == 0
        assert path.exists()
        left = tmp_path / "left"
        left.write_bytes(b"123")
        assert remove_if_abandoned(left) == 3
        assert not left.exists()
        replace_file(path, descriptor, tmp_path / "done")
    assert (tmp_path / "done").read_bytes() == b"12345"
    assert remove_if_abandoned(tmp_path / "never") == 0


def test_a_link_is_made_once(tmp_path: Path) -> None:
    target = tmp_path / "target"
    made = []
    for data in (b"first", b"second"):
        with temporary_file(tmp_path) as (path, descriptor):
            write_all(descriptor, data)
            made.append(link_once(path, descriptor, target))
    assert made == [True, False]
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


def test_folders_are_made_and_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make"), storage_errors("make", tmp_path / "file" / "x"):
        make_folder(tmp_path / "file" / "x")
