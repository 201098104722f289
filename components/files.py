"""Files that are there whole or not at all, and the operating system's errors in words."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import StorageError, WardRoundError

TEMPORARY = ".tmp-"

_HINTS = {
    errno.ENOSPC: "the disk is full: free space, then run again; nothing recorded was lost",
    errno.EDQUOT: "the disk quota is used up: free space, then run again; nothing recorded was lost",
    errno.EFBIG: "the file is larger than this system or its limits (ulimit -f) allow",
    errno.EACCES: "no permission: give this user the right to write the folder, or choose another one",
    errno.EPERM: "the operation is not permitted here: choose a folder on a local disk that this user may write",
    errno.EROFS: "the disk is mounted read-only: choose another folder",
    errno.ENOENT: "it is not there",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.EMFILE: "too many files are open in this process (ulimit -n)",
    errno.ENAMETOOLONG: "the name is too long for this disk",
    errno.EIO: "the disk reported an error: check it before you go on",
    errno.EXDEV: "its folder lies on another disk than the files it shares: keep a federation's folder on one disk",
}


@contextmanager
def storage_errors(what: str, path: Path) -> Iterator[None]:
    """Turn every `OSError` of the block into a `StorageError` that says what could not be done, and why.

    Args:
        what: The action, for example ``write``.
        path: What it was done to. Only the last three parts are shown: the rest is the hospital's own.
    """
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, error.strerror or type(error).__name__)
        raise StorageError(f"cannot {what} {shown(path)}: {hint}") from error


def shown(path: Path) -> str:
    """Return the last three parts of a path, and the root of one that has no more.

    >>> shown(Path("/home/someone/wardround/store/objects/abc.safetensors"))
    'store/objects/abc.safetensors'
    >>> shown(Path("/data/out.csv"))
    '/data/out.csv'
    """
    return str(path) if path.is_absolute() and len(path.parts) <= 4 else "/".join(path.parts[-3:])


@contextmanager
def sole_holder(path: Path, otherwise: WardRoundError) -> Iterator[None]:
    """Hold the lock of a file, made where it is not there; the kernel frees it however the process ends.

    Args:
        path: The file.
        otherwise: Raised if another process holds it.
    """
    with open(path, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise otherwise from None
        yield


@contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """Make a temporary file in `folder` and yield its path and descriptor; remove it if it is still there.

    Guarantees:
        The file is locked until it is closed, so that `remove_if_abandoned` can tell the file of a living
        process from what one that was killed has left.
    """
    path, descriptor = _open_locked(folder)
    try:
        yield path, descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_locked(folder: Path) -> tuple[Path, int]:
    """Make and lock a new file; again, if a sweep took it between the two."""
    while True:
        path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Write all of `data`; the system may take it in parts."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def replace_file(temporary: Path, descriptor: int, target: Path) -> None:
    """Put a temporary file in the place of `target`; durable when this returns."""
    os.fsync(descriptor)
    temporary.replace(target)
    sync_folder(target.parent)


def write_whole(target: Path, content: memoryview | bytes) -> None:
    """Put a file with this content in the place of `target`, whole or not at all; durable when this returns."""
    make_folder(target.parent)
    with temporary_file(target.parent) as (temporary, descriptor):
        write_all(descriptor, content)
        replace_file(temporary, descriptor, target)


def link_once(temporary: Path, descriptor: int, target: Path) -> bool:
    """Put a temporary file at `target` unless something is there; durable when this returns.

    Returns:
        Whether it is this file that lies there now. Of two processes, exactly one gets True.
    """
    os.fsync(descriptor)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    sync_folder(target.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_digest(path: Path, digest: str) -> bool:
    """Return whether there is a file with this SHA-256.

    Raises:
        StorageError: If it cannot be read.
    """
    with storage_errors("read", path):
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; durable when this returns."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def remove_if_abandoned(path: Path) -> int:
    """Remove a temporary file unless a living process is writing it.

    Returns:
        The bytes freed; 0 if the file is in use or already gone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return os.fstat(descriptor).st_size
    except BlockingIOError:
        return 0
    finally:
        os.close(descriptor)
