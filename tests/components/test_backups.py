"""A folder of backups: contents once, manifests last, nothing believed that its digest does not say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from components.backups import Backup, BackupFile, BackupFolder
from components.errors import StorageError
from components.files import TEMPORARY


def backup(made: str, files: list[BackupFile]) -> Backup:
    return Backup(
        made=made, wardround="0.1.0", protocol=1, schema_version=3, federation="chest", home="/home", coordinator="/c",
        database="sqlite", journals={}, files=files, folders={}, left_out=[],
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> BackupFolder:
    return BackupFolder(tmp_path / "backups")


def put(folder: BackupFolder, source: Path, known: dict[str, BackupFile] | None = None) -> BackupFile:
    found = folder.put(source, f"home/{source.name}", known)
    assert found is not None
    return found


def contents(folder: BackupFolder) -> set[str]:
    return {path.name for path in (folder.root / "objects").glob("*/*")}


def written(folder: BackupFolder, tmp_path: Path, made: str, text: str) -> BackupFile:
    source = tmp_path / "key"
    source.write_text(text)
    source.chmod(0o600)
    with folder.held():
        file = put(folder, source)
        folder.write(backup(made, [file]))
    return file


def test_what_is_fetched_is_what_was_put_with_its_mode_and_only_its_owner_reads_the_backup(
    folder: BackupFolder, tmp_path: Path
) -> None:
    file = written(folder, tmp_path, "20261122-010203-000", "secret")
    folder.fetch(folder.read().files[0], tmp_path / "again")
    assert ((tmp_path / "again").read_text(), (tmp_path / "again").stat().st_mode & 0o777) == ("secret", 0o600)
    assert folder.root.stat().st_mode & 0o777 == 0o700
    stored = [folder.root / "objects" / file.sha256[:2] / file.sha256, folder.root / "20261122-010203-000.json"]
    assert [path.stat().st_mode & 0o777 for path in stored] == [0o600, 0o600]


def test_a_file_that_has_not_changed_is_not_read_again_and_one_that_has_is(
    folder: BackupFolder, tmp_path: Path
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"one")
    with folder.held():
        first = put(folder, source)
        times = (source.stat().st_atime_ns, source.stat().st_mtime_ns)
        source.write_bytes(b"two")
        os.utime(source, ns=times)  # only its size and its time are looked at
        assert put(folder, source, {first.path: first}).sha256 == first.sha256
        os.utime(source, ns=(0, times[1] + 1))
        assert put(folder, source, {first.path: first}).sha256 != first.sha256


def test_a_content_that_a_known_file_lost_is_stored_anew(folder: BackupFolder, tmp_path: Path) -> None:
    file = written(folder, tmp_path, "20261122-010203-000", "secret")
    (folder.root / "objects" / file.sha256[:2] / file.sha256).unlink()
    with folder.held():
        put(folder, tmp_path / "key", {file.path: file})
    folder.check(folder.read())


def test_the_newest_is_read_unless_one_is_named(folder: BackupFolder, tmp_path: Path) -> None:
    for made in ("20261122-010203-000", "20261123-010203-000"):
        written(folder, tmp_path, made, made)
    assert (folder.read().made, folder.read("20261122-010203-000").made) == (
        "20261123-010203-000", "20261122-010203-000",
    )  # fmt: skip
    with pytest.raises(StorageError, match=r"no backup 2025 in .*: there are 20261122-010203-000, 20261123-010203-000"):
        folder.read("2025")


def test_only_as_many_are_kept_as_asked_and_only_their_contents(folder: BackupFolder, tmp_path: Path) -> None:
    files = [written(folder, tmp_path, f"2026112{day}-010203-000", str(day)) for day in range(4)]
    assert folder.forget(2) == ["20261120-010203-000", "20261121-010203-000"]
    assert contents(folder) == {file.sha256 for file in files[2:]}
    with pytest.raises(ValueError, match="keep must be 1 or more"):
        folder.forget(0)


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_content_that_is_not_what_it_was_is_found(folder: BackupFolder, tmp_path: Path, harm: str) -> None:
    file = written(folder, tmp_path, "20261122-010203-000", "secret")
    stored = folder.root / "objects" / file.sha256[:2] / file.sha256
    stored.write_text("other!") if harm == "changed" else stored.unlink()
    with pytest.raises(StorageError, match=r"backup's content of home/key is (damaged|missing)"):
        folder.check(folder.read())
    with pytest.raises(StorageError, match=r"backup's content of home/key is (damaged|missing)"):
        folder.fetch(file, tmp_path / "again")


def test_a_manifest_that_was_changed_is_refused(folder: BackupFolder, tmp_path: Path) -> None:
    written(folder, tmp_path, "20261122-010203-000", "secret")
    path = folder.root / "20261122-010203-000.json"
    whole = json.loads(path.read_text())
    whole["backup"]["federation"] = "other"
    path.write_text(json.dumps(whole))
    with pytest.raises(StorageError, match="is not what was written"):
        folder.read()


@pytest.mark.parametrize("path", ["home/../../etc/passwd", "/etc/passwd", "home//x", "elsewhere/x", "home/."])
def test_a_manifest_cannot_lead_out_of_where_it_is_restored(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        BackupFile(path=path, sha256="0" * 64, bytes=0, mode=0o600, modified_ns=0)


def test_a_backup_that_was_killed_is_not_there_and_the_next_one_tidies_up(folder: BackupFolder, tmp_path: Path) -> None:
    with folder.held():
        pass
    (folder.root / "objects").mkdir()
    left = folder.root / "objects" / f"{TEMPORARY}0"
    left.write_text("half")
    assert folder.made() == []
    with folder.held():
        assert not left.exists()


def test_two_backups_at_a_time_are_refused(folder: BackupFolder) -> None:
    with folder.held(), pytest.raises(StorageError, match="another backup is being made"), folder.held():
        pass
