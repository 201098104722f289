"""The folder of everything that is recorded on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from components.errors import StorageError
from components.files import storage_errors

DEFAULT = ".wardround"
NEEDED_MB = 32  # less than this is taken up by two empty databases and a first round of the smallest study
_FULL_BYTES = 1 << 20


def home_folder(given: Path | None = None) -> Path:
    """Return the folder asked for, or that of ``WARDROUND_HOME``, or ``.wardround`` in the working directory."""
    return (given or Path(os.environ.get("WARDROUND_HOME") or DEFAULT)).expanduser().resolve()


def open_home(given: Path | None = None) -> Path:
    """Return the folder, made if it is not there.

    Raises:
        StorageError: If it cannot be made or written, or its disk has less than `NEEDED_MB` to spare.
    """
    home = home_folder(given)
    try:
        with storage_errors("write", home):
            home.mkdir(parents=True, exist_ok=True)
            probe = home / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
    except StorageError as error:
        raise StorageError(f"{error} (the home folder is {home}; --home or WARDROUND_HOME names another)") from None
    free = free_bytes(home) >> 20
    if free < NEEDED_MB:
        raise StorageError(
            f"the disk that holds {home} has {free} MB to spare, a training needs {NEEDED_MB} or more: free some "
            "space, or give another folder with --home or WARDROUND_HOME"
        )
    return home


def as_typed(path: Path) -> str:
    """Return a path as one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write to the disk of a folder."""
    return shutil.disk_usage(folder).free


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder has less than a megabyte to spare; False where that cannot be told."""
    try:
        return free_bytes(folder) < _FULL_BYTES
    except OSError:
        return False
