"""SHA-256 of files, remembered beside the cache, so that a second start need not read them again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from components.errors import StorageError

_FILE = "hashes.json"


class FileHashes:
    """Content hashes of files, kept by path, size, and times of change.

    A file is read again when its size, its modification time or its inode's change time differs; the
    last one cannot be set back by a user. A damaged memory is forgotten.

    Args:
        folder: Where the memory is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._known: dict[str, list[int | str]] = {}
        self._seen: dict[str, list[int | str]] = {}
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = content if isinstance(content, dict) else {}
        except (OSError, ValueError):
            pass

    def of(self, files: Sequence[Path]) -> str:
        """Return one SHA-256 over the content of the files, in this order.

        Raises:
            OSError: If one cannot be read.
        """
        hashes = [self._of_file(path) for path in files]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def _of_file(self, path: Path) -> str:
        """Return a file's SHA-256, from memory if it is unchanged."""
        state = path.stat()
        stamp: list[int | str] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        known = self._known.get(str(path))
        if not (isinstance(known, list) and known[:3] == stamp and len(known) == 4):
            with path.open("rb") as file:
                known = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
        self._seen[str(path)] = known
        return str(known[3])

    def save(self) -> None:
        """Keep what was seen since this object was made, if it differs from what was known.

        Raises:
            StorageError: If it cannot be written.
        """
        if self._seen == self._known:
            return
        temporary = self._path.with_name(f".{_FILE}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._seen), encoding="utf-8")
            temporary.replace(self._path)
        except OSError as error:
            raise StorageError(
                f"cannot write into the site's state folder ({error.strerror}): make room on the disk or give this "
                "user the right to write there"
            ) from error
