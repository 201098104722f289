import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.errors import StorageError
from components.exchange.secret_files import MAX_BYTES, make_secret_folder, read_secret, write_secret


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The modes must not depend on a careful umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_may_read_file_and_folder(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    assert write_secret(path, b"secret")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert read_secret(path) == b"secret"
    assert list(path.parent.iterdir()) == [path]


def test_the_mode_is_set_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watch(descriptor: int, data: bytes) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

    monkeypatch.setattr("components.exchange.secret_files.write_all", watch)
    write_secret(tmp_path / "keys" / "a.key", b"secret")
    assert seen == [0o600]


@pytest.mark.parametrize("wrong", [0o640, 0o604, 0o620, 0o602, 0o644, 0o777])
def test_a_key_others_may_read_is_refused_until_the_printed_command_was_run(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "keys" / "a.key"
    write_secret(path, b"secret")
    path.chmod(wrong)
    with pytest.raises(StorageError, match=rf"mode {wrong:04o}: other users .* Run: chmod 600 .*keys/a\.key$"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == b"secret"


@pytest.mark.parametrize("wrong", [0o750, 0o701, 0o777])
def test_a_folder_others_may_enter_is_refused(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "keys" / "a.key"
    write_secret(path, b"secret")
    path.parent.chmod(wrong)
    with pytest.raises(StorageError, match=r"Run: chmod 700 .*/keys$"):
        read_secret(path)


def test_what_is_public_may_be_read_but_not_changed_by_others(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ca.pem"
    write_secret(path, b"public")
    path.parent.chmod(0o755)
    path.chmod(0o644)
    assert read_secret(path, public=True) == b"public"
    path.chmod(0o664)
    with pytest.raises(StorageError, match="may read or change it"):
        read_secret(path, public=True)


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir(mode=0o755)
    make_secret_folder(tmp_path / "volume")
    assert mode(tmp_path / "volume") == 0o755


def test_once_leaves_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    assert write_secret(path, b"first", once=True)
    assert not write_secret(path, b"second", once=True)
    assert read_secret(path) == b"first"
    assert write_secret(path, b"third")
    assert read_secret(path) == b"third"


def test_of_many_at_once_exactly_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: write_secret(path, str(n).encode(), once=True), range(16)))
    assert outcomes.count(True) == 1
    assert read_secret(path) == str(outcomes.index(True)).encode()


def test_what_is_no_small_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    write_secret(folder / "big", b"x" * (MAX_BYTES + 1))
    os.mkfifo(folder / "pipe", 0o600)
    (folder / "folder").mkdir(mode=0o700)
    for name in ("big", "pipe", "folder"):
        with pytest.raises(StorageError, match=rf"cannot read .*keys/{name}: (not a file|it is a folder)"):
            read_secret(folder / name)
    with pytest.raises(StorageError, match="it is not there"):
        read_secret(folder / "none")
