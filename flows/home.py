"""The folder of everything that is recorded on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from components.errors import StorageError

DEFAULT = ".wardround"


def home_folder(given: Path | None = None) -> Path:
    """Return the folder asked for, or that of ``WARDROUND_HOME``, or ``.wardround`` in the working directory."""
    return (given or Path(os.environ.get("WARDROUND_HOME") or DEFAULT)).expanduser().resolve()


def open_home(given: Path | None = None) -> Path:
    """Return the folder, made if it is not there.

    Raises:
        StorageError: If it cannot be made or written.
    """
    home = home_folder(given)
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot write to {home} ({error.strerror}): give another folder with --home or WARDROUND_HOME"
        ) from None
    return home
