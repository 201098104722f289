"""Search bytes for something that must not be in them, however it was written: encoded, packed, packed in packed."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

DEEPEST = 3
MOST_BYTES = 64 << 20  # of one thing unpacked
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_CHUNK = re.compile(rb"\r\n[0-9a-fA-F]{1,8}\r\n")
# How gzip, zlib's usual levels and zip begin, in base64.
_PACKED = (b"H4sI", b"eJ", b"eN", b"eA", b"UEsD")


Word = TypeVar("Word", str, bytes)


def spellings(word: str | bytes) -> set[bytes]:
    """Return how a word may be written: as text, in UTF-16, hexadecimal, JSON, an address, and base64 at any place."""
    raw = word.encode() if isinstance(word, str) else word
    found = {raw, raw.hex().encode(), quote(raw, "").encode()}
    if isinstance(word, str):
        found |= {word.encode("utf-16-le"), json.dumps(word)[1:-1].encode()}
        found |= {json.dumps(word)[1:-1].replace("/", r"\/").encode()}
    for shift in range(3):
        # What stands before and after changes the digits at the ends; those between are the word's own.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            digits = encode(b"\0" * shift + raw)
            whole = (shift + len(raw)) * 8 // 6
            found.add(digits[-(-shift * 8 // 6) : whole])
    return found


def find(data: bytes, words: Iterable[Word]) -> set[Word]:
    """Return the words that are somewhere in some bytes."""
    wanted = {word: {spelling.lower() for spelling in spellings(word)} for word in words}
    found = set()
    for layer in layers(data):
        lower = layer.lower()
        found |= {word for word, all_of in wanted.items() if any(spelling in lower for spelling in all_of)}
    return found


def find_in_folder(folder: Path, words: Iterable[Word], *, without: Iterable[Path] = ()) -> dict[str, set[Word]]:
    """Return the words found in names and contents of the files of a folder, by file."""
    words, left_out, found = list(words), list(without), {}
    for path in sorted(folder.rglob("*")):
        if any(path.is_relative_to(other) for other in left_out) or path.is_symlink() or not path.is_file():
            continue
        name = str(path.relative_to(folder))
        content = path.read_bytes()
        within: set[Word] = find(content, words) | find(name.encode(), words)
        if content.startswith(b"SQLite format 3"):
            within |= find(rows_of(path), words)
        if within:
            found[name] = within
    return found


def layers(data: bytes, deep: int = 0) -> Iterator[bytes]:
    """Yield some bytes, and what is packed in them."""
    yield data
    if b"\r\ntransfer-encoding" in data.lower() and deep < DEEPEST:
        yield from layers(_CHUNK.sub(b"", data).replace(b"ransfer-", b""), deep + 1)  # a word may be cut in two
    if data.startswith(b"SQLite format 3"):
        return  # what is packed in its cells is found in `rows_of`
    if deep == DEEPEST:
        return
    for packed in _packed(data):
        yield from layers(packed, deep + 1)
    for match in _BASE64.finditer(data):
        if match[0].startswith(_PACKED):
            digits = match[0].replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
            try:
                yield from layers(base64.b64decode(digits + b"=" * (-len(digits) % 4)), deep + 1)
            except binascii.Error:
                continue


def rows_of(path: Path) -> bytes:
    """Return every value of every table of an SQLite database, the one that a write-ahead log holds included."""
    values: list[bytes] = []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        database.text_factory = bytes
        tables = [row[0].decode() for row in database.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for row in database.execute(f'select * from "{table}"'):
                values += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"\n".join(values)


def _packed(data: bytes) -> Iterator[bytes]:
    """Yield what gzip, zlib or zip packed, wherever it begins."""
    view = memoryview(data)
    for match in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", data):
        unpacked = _unpack(view[match.start() :])
        if len(unpacked) > 8:
            yield unpacked
    if b"PK\x03\x04" in data:
        try:
            with zipfile.ZipFile(io.BytesIO(data[data.index(b"PK\x03\x04") :])) as archive:
                for name in archive.namelist():
                    yield name.encode()
                    yield archive.read(name)
        except (zipfile.BadZipFile, ValueError):
            pass


def _unpack(view: memoryview) -> bytes:
    """Return what can be unpacked from some bytes, up to where it is damaged."""
    unpacker, unpacked = zlib.decompressobj(47), b""  # gzip or zlib, told by its header
    for start in range(0, len(view), 1 << 14):
        try:
            unpacked += unpacker.decompress(view[start : start + (1 << 14)])
        except zlib.error:
            break
        if unpacker.eof or len(unpacked) > MOST_BYTES:
            break
    return unpacked
