"""The journal: one append-only, hash-chained, fsynced file of JSON lines that a restart and an auditor read.

One line per event, in canonical JSON (keys sorted, ASCII, no blanks)::

    {"data":{...},"event":"committed","hash":"...","previous":"...","seq":7,"time":"..."}

`hash` is the SHA-256 of the same line without `hash`; `previous` is the hash of the line before, and of the
first line the SHA-256 of the format's name. So no line can be changed, inserted, moved or removed unseen,
except that lines may be cut off at the end: whoever must exclude that keeps the head's hash elsewhere.
Times are for people; the order is `seq`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import socket
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.errors import JournalError
from components.failpoints import failpoint
from components.files import make_folder, sync_folder, write_all, write_whole
from components.journal_lines import Entry, VerifyReport, load, make_entry, read, storage_error, verify

__all__ = ["TORN", "Entry", "Journal", "VerifyReport", "read", "verify"]

TORN = "torn_line_dropped"


class Journal:
    """The journal of one training or of one site; made by `Journal.open`.

    Guarantees:
        An entry that `append` returned is on the disk: file and folder were fsynced. An append that
        raised left no part of its line. Only one process drives a journal at a time; threads of that
        process may append at the same time. A forked child holds no part of it.
    """

    def __init__(self, path: Path, descriptor: int, entries: list[Entry], size: int) -> None:
        """Take over an open file; use `Journal.open` instead."""
        self.path = path
        self._descriptor = descriptor
        self._entries = entries
        self._size = size
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: str | Path, *, drive: bool = True) -> Self:
        """Open a journal and verify every line of it.

        Args:
            path: The file. With `drive` it is made, with its folders, where it does not exist.
            drive: Whether to append: takes the lock, and drops the line that a crash in mid-append left
                unfinished. Its bytes go to a file beside the journal and the event `torn_line_dropped`
                names that file. Without `drive` nothing is locked or changed.

        Raises:
            JournalError: If a line is damaged (nothing is repaired) or another process drives it.
            StorageError: If the file or its folder cannot be read or written.
        """
        path = Path(path)
        if not drive:
            return cls(path, -1, list(read(path)), 0)
        descriptor = _open_and_lock(path)
        try:
            entries, torn = load(path)
            journal = cls(path, descriptor, entries, _size(descriptor) - len(torn))
            journal._drop(torn)
        except BaseException:
            os.close(descriptor)
            raise
        os.register_at_fork(after_in_child=functools.partial(_forget_in_child, weakref.ref(journal)))
        return journal

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in order."""
        return tuple(self._entries)

    def find(self, event: str, **match: Any) -> tuple[Entry, ...]:
        """Return the entries of an event whose data has all the given values, in order."""
        return tuple(entry for entry in self.entries if entry.event == event and match.items() <= entry.data.items())

    def last(self, event: str, **match: Any) -> Entry | None:
        """Return the newest entry that `find` finds, or None."""
        found = self.find(event, **match)
        return found[-1] if found else None

    def append(self, event: str, /, **data: Any) -> Entry:
        """Write one line and wait until it is on the disk.

        Args:
            event: What happened: lower-case letters, digits and underscores, at most 63.
            **data: JSON: text, finite numbers, true, false, null, and lists and dicts of them.

        Raises:
            ValueError: If the event or its data cannot be written as asked; nothing was written.
            StorageError: If the disk refused (full, read-only, gone); the journal is as it was before.
            JournalError: If this process does not drive the journal, or another program changed the file.
        """
        with self._turn:
            entry, line = make_entry(self._entries, event, data)
            self._check_place()
            failpoint(f"journal.before:{event}")
            self._write(line)
            self._entries.append(entry)
            self._size += len(line)
        failpoint(f"journal.after:{event}")
        return entry

    def close(self) -> None:
        """Let go of the file and its lock."""
        with self._turn:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_place(self) -> None:
        """Refuse to write to a file that was closed, deleted, replaced or written by another program."""
        if self._descriptor < 0:
            raise JournalError(f"{self.path}: this process does not drive the journal; open it with drive=True")
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise storage_error(self.path, "find", error) from error
        held = os.fstat(self._descriptor)
        if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
            raise JournalError(f"{self.path}: the file was replaced while this process was writing it; stop and look")
        if held.st_size != self._size:
            raise JournalError(
                f"{self.path}: the file has {held.st_size} bytes, expected {self._size}; another program wrote to it"
            )

    def _write(self, line: bytes) -> None:
        """Write a line durably, or leave the file as it was."""
        try:
            write_all(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as error:
            try:
                os.ftruncate(self._descriptor, self._size)
                os.fsync(self._descriptor)
            except OSError:
                # What is on the disk now is unknown: only verifying the file anew can tell.
                os.close(self._descriptor)
                self._descriptor = -1
            raise storage_error(self.path, "write", error) from error

    def _drop(self, torn: bytes) -> None:
        """Set the bytes of an unfinished last line aside, cut them off, and record it.

        A crash between any two of these steps is made good by the next call: what was set aside and is not
        recorded yet, is recorded then.
        """
        prefix = f"{self.path.name}.torn-"
        try:
            if torn:
                kept = f"{prefix}{len(self._entries) + 1}-{hashlib.sha256(torn).hexdigest()[:16]}"
                write_whole(self.path.with_name(kept), torn)
                os.ftruncate(self._descriptor, self._size)
                os.fsync(self._descriptor)
            recorded = {entry.data.get("kept") for entry in self.find(TORN)}
            aside = sorted(p for p in self.path.parent.iterdir() if p.name.startswith(prefix) and p.suffix != ".part")
            contents = {p.name: p.read_bytes() for p in aside if p.name not in recorded}
        except OSError as error:
            raise storage_error(self.path, "repair", error) from error
        for name, content in contents.items():
            self.append(TORN, bytes=len(content), kept=name, sha256=hashlib.sha256(content).hexdigest())


def _open_and_lock(path: Path) -> int:
    """Open the file for appending, making it if needed, and take its lock."""
    descriptor = -1
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fsync(descriptor)
        sync_folder(path.parent)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise JournalError(
                f"{path}: {_holder(path)} is driving this journal; wait for it or stop it, "
                "then run the same command again"
            ) from error
        raise storage_error(path, "open", error) from error
    with contextlib.suppress(OSError):  # informative only: a full disk is told by the first append
        _holder_file(path).write_text(f"{os.getpid()} {socket.gethostname()}\n")
    return descriptor


def _holder_file(path: Path) -> Path:
    """Return the file that says who took the lock last."""
    return path.with_name(path.name + ".holder")


def _holder(path: Path) -> str:
    """Name the process that took the lock last."""
    try:
        process, host = _holder_file(path).read_text().split()
    except (OSError, ValueError):
        return "another process"
    return f"process {process} on {host}"


def _forget_in_child(reference: weakref.ref[Journal]) -> None:
    """Close a forked child's copy of the file: it would keep the lock after its parent died."""
    journal = reference()
    if journal is not None and journal._descriptor >= 0:
        os.close(journal._descriptor)
        journal._descriptor = -1


def _size(descriptor: int) -> int:
    """Return the size of an open file, in bytes."""
    return os.fstat(descriptor).st_size
