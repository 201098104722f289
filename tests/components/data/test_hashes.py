import hashlib
import os
from pathlib import Path

from components.data.hashes import FileHashes


def test_the_hash_is_the_contents_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert FileHashes(tmp_path).of([tmp_path / "a"]) == hashlib.sha256(b"abc").hexdigest()


def test_the_order_of_several_files_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"def")
    hashes = FileHashes(tmp_path)
    assert hashes.of([tmp_path / "a", tmp_path / "b"]) != hashes.of([tmp_path / "b", tmp_path / "a"])


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    file, memory = tmp_path / "a", tmp_path / "cache"
    file.write_bytes(b"abc")
    first = FileHashes(memory)
    first.of([file])
    first.save()
    text = (memory / "hashes.json").read_text()
    forged = text.replace(hashlib.sha256(b"abc").hexdigest(), "remembered")
    (memory / "hashes.json").write_text(forged)
    assert FileHashes(memory).of([file]) == "remembered"


def test_a_changed_file_is_seen_though_size_and_time_are_as_before(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    hashes = FileHashes(tmp_path / "cache")
    hashes.of([file])
    hashes.save()
    before = file.stat()
    file.write_bytes(b"xyz")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert FileHashes(tmp_path / "cache").of([file]) == hashlib.sha256(b"xyz").hexdigest()


def test_a_damaged_memory_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    for damaged in ("{", "[]", '{"%s": 3}' % (tmp_path / "a")):
        (tmp_path / "hashes.json").write_text(damaged)
        assert FileHashes(tmp_path).of([tmp_path / "a"]) == hashlib.sha256(b"abc").hexdigest()
