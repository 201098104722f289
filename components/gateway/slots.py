"""The slots behind the door: sealed payloads that arrive in parts, and are sealed once by an envelope.

::

    sealed/<training>/<round>/<attempt>/<kind>/<site>/payload          grows until its envelope is there
    sealed/<training>/<round>/<attempt>/<kind>/<site>/envelope.json    the commit point: from now on nothing changes

A payload without an envelope is unfinished, whoever left it. Two requests for one slot, on one gateway or on
two, take turns by the lock of the payload; the one that comes second is told so.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from components.failpoints import failpoint
from components.files import link_once, make_folder, storage_errors, sync_folder, temporary_file, write_all
from components.gateway.records import SlotKey, UploadStatus
from components.gateway.refusals import RefusalError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

_PAYLOAD, _ENVELOPE = "payload", "envelope.json"
_PIECE = 1 << 20
_HASHES = 256


@dataclass
class Part:
    """A part of a payload that is being written; made by `SealedSlots.receive`.

    Attributes:
        end: Bytes there now.
        hashed: SHA-256 of them, as far as known; None where something was there that this process did not write.
    """

    descriptor: int
    end: int
    hashed: Hash | None

    def write(self, data: bytes | bytearray) -> None:
        """Append some bytes."""
        write_all(self.descriptor, memoryview(data))
        self.end += len(data)
        if self.hashed is not None:
            self.hashed.update(data)


class _Hashes:
    """What payloads hash to that this process wrote from their first byte, so that none is read again for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[Path, tuple[tuple[int, int], Hash]] = OrderedDict()

    def take(self, slot: SlotKey, descriptor: int, offset: int) -> Hash | None:
        """Return the state after so many bytes, if they are all and nobody else wrote since; it is the caller's now."""
        with self._lock:
            stamp, state = self._known.pop(slot.folder, (None, None))
        if offset == 0:
            return hashlib.sha256()
        return state if stamp == _stamp(descriptor) and stamp[0] == offset else None

    def put(self, slot: SlotKey, descriptor: int, state: Hash | None) -> None:
        """Keep a state."""
        if state is not None:
            with self._lock:
                self._known[slot.folder] = (_stamp(descriptor), state)
                while len(self._known) > _HASHES:
                    self._known.popitem(last=False)


class SealedSlots:
    """The slots of one federation, in a folder with file locks.

    Args:
        root: The folder ``sealed``; made on the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._hashes = _Hashes()

    def payload(self, slot: SlotKey) -> Path:
        """Return where a slot's payload lies; it counts only if `envelope` is there."""
        return self.root / slot.folder / _PAYLOAD

    def envelope(self, slot: SlotKey) -> bytes | None:
        """Return what sealed a slot; None if it is still open.

        Raises:
            StorageError: If it cannot be read.
        """
        path = self.root / slot.folder / _ENVELOPE
        with storage_errors("read", path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def status(self, slot: SlotKey) -> UploadStatus:
        """Return how much of a payload is there."""
        path = self.payload(slot)
        with storage_errors("read", path):
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                size = 0
        return UploadStatus(bytes=size, submitted=self.envelope(slot) is not None)

    @contextmanager
    def receive(self, slot: SlotKey, offset: int, *, length: int, max_bytes: int, whole: bool) -> Iterator[Part]:
        """Open a payload to be written from `offset` on; what lay behind it is dropped.

        Args:
            slot: The slot.
            offset: Where this part begins: at most where the payload ends now.
            length: Bytes of this part.
            max_bytes: Largest payload.
            whole: Whether a part that breaks off is dropped, because nothing vouches for its bytes until its
                end. Otherwise what came stays, and the next part begins there.

        Raises:
            RefusalError: If the slot is sealed (409), the part would leave a hole (409) or be too much (413), or
                another request is writing (409).
            StorageError: If the disk refuses.
        """
        if offset + length > max_bytes:
            raise RefusalError(413, f"{offset} + {length} bytes for a slot of {max_bytes}")
        with self._locked(slot, make=True) as descriptor:
            size = os.fstat(descriptor).st_size
            if self.envelope(slot) is not None or offset > size:
                raise RefusalError(409, f"a part at {offset} of {size} bytes", said=self.status(slot).model_dump())
            with storage_errors("write", self.payload(slot)):
                hashed = self._hashes.take(slot, descriptor, offset)
                os.ftruncate(descriptor, offset)
                os.lseek(descriptor, offset, os.SEEK_SET)
                part = Part(descriptor, offset, hashed)
                try:
                    yield part
                finally:
                    if whole and part.end != offset + length:
                        os.ftruncate(descriptor, offset)
                    else:
                        self._hashes.put(slot, descriptor, part.hashed)

    def submit(self, slot: SlotKey, envelope: bytes, *, sealed_sha256: str | None, sealed_bytes: int | None) -> bool:
        """Seal a slot; durable when this returns.

        Args:
            slot: The slot.
            envelope: What seals it, as it came.
            sealed_sha256: What the payload must hash to; None if there is none (an answer without an update).
            sealed_bytes: What the payload must have; None likewise.

        Returns:
            True if this sealed it; False if it had been sealed with these very bytes.

        Raises:
            RefusalError: If it is sealed with another envelope or the payload is not as stated (409).
            StorageError: If the disk refuses.
        """
        sealed = self.envelope(slot)
        if sealed is None:
            with self._locked(slot, make=sealed_sha256 is None) as descriptor:
                if self.envelope(slot) is None:
                    self._require_payload(slot, descriptor, sealed_sha256, sealed_bytes or 0)
                if self._link(slot, descriptor, envelope):
                    return True
            sealed = self.envelope(slot)
        if sealed != envelope:
            raise RefusalError(409, f"{slot.folder} is sealed with another envelope", said={"submitted": True})
        return False

    def discard(self, slot: SlotKey) -> None:
        """Delete what lies in a slot.

        Raises:
            StorageError: If it cannot be deleted.
        """
        _remove(self.root / slot.folder)

    def discard_training(self, training: str) -> None:
        """Delete what lies in any slot of a training, which takes nothing any more, and their folders.

        Raises:
            StorageError: If it cannot be deleted.
        """
        _remove(self.root / training)

    def slots(self, training: str) -> Iterator[SlotKey]:
        """Yield the slots of a training that something lies in."""
        for place in (self.root / training).glob("*/*/*/*"):
            number, attempt, kind, site = place.relative_to(self.root / training).parts
            yield SlotKey.model_validate({
                "training": training, "round": int(number), "attempt": int(attempt), "kind": kind, "site": site,
            })  # fmt: skip

    def sweep(self, training: str, is_open: Callable[[SlotKey], bool]) -> None:
        """Delete what lies in those slots of a training that take nothing any more, while others still do.

        Raises:
            StorageError: If it cannot be deleted.
        """
        for slot in list(self.slots(training)):
            if not is_open(slot):
                self.discard(slot)

    def _link(self, slot: SlotKey, descriptor: int, envelope: bytes) -> bool:
        """Make the payload durable, then put its envelope beside it, once."""
        target = self.root / slot.folder / _ENVELOPE
        with storage_errors("write", target):
            os.fsync(descriptor)
            sync_folder(target.parent)
            failpoint("gateway.submit:payload")
            with temporary_file(target.parent) as (temporary, written):
                write_all(written, envelope)
                done = link_once(temporary, written, target)
            failpoint("gateway.submit:envelope")
            return done

    def _require_payload(self, slot: SlotKey, descriptor: int, sha256: str | None, size: int) -> None:
        """Refuse an envelope that states another payload than lies there; one that is wrong is dropped."""
        found = os.fstat(descriptor).st_size
        if sha256 is None:
            os.ftruncate(descriptor, 0)
            return
        if found == size:
            state = self._hashes.take(slot, descriptor, size) if size else None
            if (state.hexdigest() if state else _hash(descriptor)) == sha256:
                return
        if found >= size:
            os.ftruncate(descriptor, 0)
            found = 0
        status = UploadStatus(bytes=found, submitted=False)
        raise RefusalError(409, f"{slot.folder}: the payload is not as stated", said=status.model_dump())

    @contextmanager
    def _locked(self, slot: SlotKey, *, make: bool) -> Iterator[int]:
        """Open and lock a payload."""
        path = self.payload(slot)
        with storage_errors("open", path):
            if make:
                make_folder(path.parent)
            try:
                flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
                descriptor = os.open(path, flags, 0o640)
            except OSError as error:
                if make or error.errno != errno.ENOENT:
                    raise
                said = UploadStatus(bytes=0, submitted=False).model_dump()
                raise RefusalError(409, f"{slot.folder}: there is no payload", said=said) from error
        try:
            _lock(slot, descriptor)
            yield descriptor
        finally:
            os.close(descriptor)


def _lock(slot: SlotKey, descriptor: int) -> None:
    """Lock a payload, or say that another request has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RefusalError(409, f"{slot.folder} is being written", said={"busy": True}) from error


def _remove(folder: Path) -> None:
    """Delete a folder, if it is there."""
    with storage_errors("remove", folder):
        shutil.rmtree(folder, ignore_errors=not folder.exists())


def _stamp(descriptor: int) -> tuple[int, int]:
    """Return the size of an open file, and when it was last written."""
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _hash(descriptor: int) -> str:
    """Return the SHA-256 of an open file."""
    state, offset = hashlib.sha256(), 0
    while piece := os.pread(descriptor, _PIECE, offset):
        state.update(piece)
        offset += len(piece)
    return state.hexdigest()
