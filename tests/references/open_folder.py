"""A folder that every user may pass through: for root, PostgreSQL runs as another user; pytest's own are private."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a temporary folder of mode 0711."""
    with TemporaryDirectory(prefix="wardround-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder
