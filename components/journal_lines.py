"""The lines of a journal: how an event becomes one, how a file of them is read and verified."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from components.errors import JournalError, StorageError

FORMAT = "wardround journal 1"
MAX_LINE_BYTES = 1 << 20  # far above any event; bounds what a damaged file makes a reader hold in memory
GENESIS = hashlib.sha256(FORMAT.encode()).hexdigest()

_EVENT = re.compile(r"[a-z][a-z0-9_]{0,62}")
_FIELDS = {"data": dict, "event": str, "hash": str, "previous": str, "seq": int, "time": str}


@dataclass(frozen=True)
class Entry:
    """One line of the journal.

    Attributes:
        seq: Number of the line, counted from 1.
        time: When it was written, UTC in ISO 8601; informative only, clocks differ and jump.
        event: What happened.
        data: The event's JSON.
        previous: Hash of the line before.
        hash: Hash of this line.
    """

    seq: int
    time: str
    event: str
    data: dict[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True)
class VerifyReport:
    """What a whole journal proved to be.

    Attributes:
        entries: Number of lines.
        head: Hash of the last line; kept elsewhere, it shows whether lines were cut off at the end.
        torn_bytes: Bytes of a last line that a crash left unfinished; the next driver drops it.
    """

    entries: int
    head: str
    torn_bytes: int


def read(path: str | Path) -> tuple[Entry, ...]:
    """Read and verify a journal without locking it, also while another process appends to it.

    An unfinished last line is left out.

    Raises:
        JournalError: If a line is damaged.
        StorageError: If the file cannot be read.
    """
    return tuple(load(Path(path))[0])


def verify(path: str | Path) -> VerifyReport:
    """Check every line of a journal against the one before; changes and locks nothing.

    Raises:
        JournalError: If a line is damaged, naming it and what was expected.
        StorageError: If the file cannot be read.
    """
    entries, torn = load(Path(path))
    return VerifyReport(entries=len(entries), head=entries[-1].hash if entries else GENESIS, torn_bytes=len(torn))


def _canonical(value: Any) -> bytes:
    """Write JSON in the one way that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def make_entry(entries: list[Entry], event: str, data: dict[str, Any]) -> tuple[Entry, bytes]:
    """Return the entry that follows, and its line.

    Raises:
        ValueError: If the event is not a name, or its data not JSON or too long for a line.
    """
    if not _EVENT.fullmatch(event):
        raise ValueError(f"event must be lower-case letters, digits and underscores, at most 63, given {event!r}")
    body = {
        "seq": len(entries) + 1,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "event": event,
        "data": data,
        "previous": entries[-1].hash if entries else GENESIS,
    }
    try:
        _check_keys(data)
        line = _canonical(body | {"hash": hashlib.sha256(_canonical(body)).hexdigest()}) + b"\n"
        # What is kept in memory is what a reader will find: tuples have become lists.
        entry = Entry(**json.loads(line))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"event {event} cannot be written as JSON: {error}") from error
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"event {event} takes {len(line)} bytes, at most {MAX_LINE_BYTES}; keep its data in a file")
    return entry, line


def _check_keys(value: Any) -> None:
    """Refuse keys that are not text: JSON would turn them into text, and two could become one."""
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"keys must be text, given {wrong[0]!r}")
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            _check_keys(part)


def load(path: Path) -> tuple[list[Entry], bytes]:
    """Return all verified entries, and the bytes of an unfinished last line.

    Raises:
        JournalError: If a line is damaged.
        StorageError: If the file cannot be read.
    """
    entries: list[Entry] = []
    try:
        # O_NONBLOCK: opening a pipe by mistake must not wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StorageError(f"cannot read the journal {path}: it is not a file")
            for line in _lines(file):
                if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                    return entries, line
                entries.append(_parse(path, line, entries[-1] if entries else None))
    except OSError as error:
        raise storage_error(path, "read", error) from error
    return entries, b""


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines, cut where they are longer than a line may be."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def _parse(path: Path, line: bytes, before: Entry | None) -> Entry:
    """Return the entry of a line, or say how it differs from what must stand there."""
    seq = before.seq + 1 if before else 1
    if len(line) > MAX_LINE_BYTES:
        raise _damage(path, seq, f"is longer than {MAX_LINE_BYTES} bytes; no line of a journal is")
    try:
        value = json.loads(line)
        same = _canonical(value) + b"\n" == line
    except (ValueError, RecursionError) as error:
        raise _damage(path, seq, "is not JSON; expected one event in canonical JSON") from error
    if not isinstance(value, dict) or {key: type(part) for key, part in value.items()} != _FIELDS:
        raise _damage(path, seq, f"does not have exactly the fields {', '.join(_FIELDS)} with their types")
    if value["seq"] != seq:
        raise _damage(path, seq, f"has seq {value['seq']}, expected {seq}: lines were removed, added or moved")
    previous = before.hash if before else GENESIS
    if value["previous"] != previous:
        expected = "the hash of the line before" if before else f"the start of a '{FORMAT}'"
        raise _damage(path, seq, f"follows {value['previous'][:16]}, expected {expected}, {previous[:16]}")
    digest = hashlib.sha256(_canonical({key: part for key, part in value.items() if key != "hash"})).hexdigest()
    if value["hash"] != digest:
        raise _damage(path, seq, f"has the hash {value['hash'][:16]}, expected {digest[:16]}: it was changed")
    if not same:
        raise _damage(path, seq, "is not written in canonical JSON: it was changed")
    return Entry(**value)


def _damage(path: Path, seq: int, problem: str) -> JournalError:
    """Name the damaged line, and what to do."""
    return JournalError(
        f"{path}, line {seq}: the line {problem}. Nothing was repaired: "
        "put the journal back from a backup, or start anew in another folder"
    )


def storage_error(path: Path, doing: str, error: OSError) -> StorageError:
    """Return an error of the operating system as one clear message."""
    advice = {
        errno.ENOSPC: "free some space on that disk and run the same command again",
        errno.EDQUOT: "free some of your quota and run the same command again",
        errno.EFBIG: "the file may not grow further here; raise the limit on file sizes",
        errno.EACCES: "give this user the right to it, or choose another folder with WARDROUND_HOME",
        errno.EPERM: "give this user the right to it, or choose another folder with WARDROUND_HOME",
        errno.EROFS: "the disk is read-only; choose another folder with WARDROUND_HOME",
        errno.ENOENT: "look whether the folder was moved or deleted",
    }.get(error.errno or 0, "look at the disk and run the same command again")
    return StorageError(f"cannot {doing} the journal {path}: {error.strerror or error}; {advice}")
