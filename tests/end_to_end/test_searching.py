"""A search that finds nothing proves something only if it would have found it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.end_to_end.searching import find, find_in_folder

WORD, OTHER = "QZ/Canary_4711.dcm", "QzNeverWritten"


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("part", data)
    return file.getvalue()


def chunked(data: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [data[:7], data[7:]]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


WAYS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "upper": bytes.upper, "utf-16": lambda data: data.decode().encode("utf-16"),
    "hexadecimal": lambda data: data.hex().encode(), "base64": base64.b64encode,
    "base64 of a sentence": lambda data: base64.b64encode(b"a" + data), "urlsafe": base64.urlsafe_b64encode,
    "base64 further on": lambda data: base64.b64encode(b"ab" + data + b"c"), "gzip": gzip.compress,
    "zlib": zlib.compress, "zip": zipped, "gzip in base64": lambda data: base64.b64encode(gzip.compress(data)),
    "gzip in zip": lambda data: zipped(gzip.compress(data)), "chunked": chunked,
    "chunks of gzip": lambda data: chunked(gzip.compress(data)),
    "json": lambda data: json.dumps({"a": data.decode()}).replace("/", r"\/").encode(),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_word_is_found_however_it_was_written(way: str) -> None:
    written = WAYS[way](b"some words, " + WORD.encode() + b" and more of them")
    assert find(b"before " + written + b" after", [WORD, OTHER]) == {WORD}


def test_a_word_is_found_in_names_and_databases(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "QZCanary.txt").touch()
    (tmp_path / "left out").mkdir()
    (tmp_path / "left out" / "QZCanary.txt").touch()
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("create table t (value)")
        database.execute("insert into t values (?)", [b"x" * 9000 + gzip.compress(b"a QZCanary")])
        database.commit()
    found = find_in_folder(tmp_path, ["QZCanary", OTHER], without=[tmp_path / "left out"])
    assert found == {"a.db": {"QZCanary"}, "kept/QZCanary.txt": {"QZCanary"}}
