"""Files that only their owner may read: written whole with their modes, and refused when others could read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from components.errors import StorageError
from components.files import (
    link_once,
    make_folder,
    replace_file,
    shown,
    storage_errors,
    sync_folder,
    temporary_file,
    write_all,
)

MAX_BYTES = 1 << 20  # keys and certificates have a few hundred bytes; the pins of 300 sites about 200,000


def make_secret_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter (0700); one that is there is left as it is.

    Raises:
        StorageError: If it cannot be made.
    """
    with storage_errors("make", folder):
        make_folder(folder.parent)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            return
        sync_folder(folder.parent)


def write_secret(path: Path, content: bytes, *, once: bool = False) -> bool:
    """Write a file of mode 0600, whole or not at all, durable when this returns; its folder is made if need be.

    Args:
        path: The file.
        content: What to write. No other user could read it at any instant: the mode is set before the first byte.
        once: Leave a file that is there alone. Of two processes, exactly one gets True.

    Returns:
        Whether it is this content that was put there.

    Raises:
        StorageError: If it cannot be written; what lay there before is then unharmed.
    """
    make_secret_folder(path.parent)
    with storage_errors("write", path), temporary_file(path.parent) as (temporary, descriptor):
        os.fchmod(descriptor, 0o600)
        write_all(descriptor, content)
        if once:
            return link_once(temporary, descriptor, path)
        replace_file(temporary, descriptor, path)
        return True


def read_secret(path: Path, *, public: bool = False) -> bytes:
    """Read a file of keys, credentials or pins, if nobody but its owner could have read or changed it.

    Args:
        path: The file.
        public: Others may read it and its folder (a certificate), but not change them.

    Raises:
        StorageError: If it cannot be read, is no regular file or larger than `MAX_BYTES`, or if group or others
            have rights they must not have; the message says the ``chmod`` that mends it.
    """
    forbidden = 0o022 if public else 0o077
    with storage_errors("read", path):
        _require_mode(path.parent, path.parent.stat(), forbidden=forbidden, fix="chmod 700")
        # O_NONBLOCK: opening a pipe by mistake must not wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise StorageError(f"cannot read {shown(path)}: not a file of at most {MAX_BYTES} bytes")
            _require_mode(path, status, forbidden=forbidden, fix="chmod 600")
            return file.read(MAX_BYTES)


def _require_mode(path: Path, status: os.stat_result, *, forbidden: int, fix: str) -> None:
    """Refuse rights of group or others, with the command that takes them away."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        what = "read or change" if mode & 0o022 else "read"
        raise StorageError(
            f"{shown(path)} has mode {mode:04o}: other users of this machine may {what} it. Run: {fix} {shown(path)}"
        )
