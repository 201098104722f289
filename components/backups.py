"""A folder of backups: every content once, by its digest, and one manifest for each backup.

::

    <folder>/objects/ab/<sha256>    contents, mode 0600, never changed
    <folder>/<made>.json            one backup: which content lies where; written last, so it is whole or not there

So a backup costs what has changed since the one before, and each stands for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, ValidationError, field_validator

from components.errors import StorageError
from components.files import (
    TEMPORARY,
    link_once,
    make_folder,
    remove_if_abandoned,
    shown,
    sole_holder,
    storage_errors,
    temporary_file,
    write_all,
)
from components.mistakes import first_mistake
from components.rounds import Record, Sha256

Kind = Literal["sqlite", "postgresql", ""]
_MADE = re.compile(r"\d{8}-\d{6}-\d{3}")
_CHUNK = 1 << 20
_LOCK = "lock"


class BackupFile(Record):
    """One file of a backup.

    Attributes:
        path: Where it lies: below ``home/``, ``coordinator/`` or, dumped, ``databases/``.
        sha256: Digest of its content.
        bytes: Its size.
        mode: Its permissions.
        modified_ns: When it was changed last (ns since 1970): with the size, what tells that it has not changed since.
    """

    path: Annotated[str, Field(pattern=r"^(home|coordinator|databases)/.+$")]
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]
    mode: Annotated[int, Field(ge=0, le=0o777)]
    modified_ns: int

    @field_validator("path")
    @classmethod
    def _stays_below(cls, path: str) -> str:
        """Refuse a path that leads out of where it is restored."""
        if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            raise ValueError("a file of a backup lies below the folder it is restored into")
        return path


class Head(Record):
    """How far a journal went: its lines, and the hash of the last one."""

    lines: int
    hash: Sha256


class Backup(Record):
    """What one backup holds, and of what.

    Attributes:
        made: Its name: when it was made, UTC.
        wardround: Version of the WardRound that made it.
        protocol: Version of what its hospitals and it say to each other.
        schema_version: Version of the gateway's tables.
        federation: Identifier of the federation.
        home: Where the home was. So `coordinator`, its folder.
        database: What its servers record in: ``sqlite``, ``postgresql``, or empty for servers of the operator's own.
        journals: By study, how far its journal went.
        files: The files.
        folders: Permissions of their folders.
        left_out: What of the coordinator is not in it, in words.
    """

    format: Literal[1] = 1
    made: Annotated[str, Field(pattern=_MADE.pattern)]
    wardround: str
    protocol: int
    schema_version: int
    federation: str
    home: str
    coordinator: str
    database: Kind
    journals: dict[str, Head]
    files: list[BackupFile]
    folders: dict[str, int]
    left_out: list[str]


class BackupFolder:
    """A folder of backups.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder: one backup at a time. Made where it is not there, for its owner alone.

        Raises:
            StorageError: If another process holds it, or it cannot be written.
        """
        with storage_errors("write", self.root):
            make_folder(self.root.parent)
            self.root.mkdir(mode=0o700, exist_ok=True)
            busy = StorageError(f"another backup is being made in {self.root}: wait for its end")
            with sole_holder(self.root / _LOCK, busy):
                for left in [*self.root.glob(f"{TEMPORARY}*"), *(self.root / "objects").glob(f"{TEMPORARY}*")]:
                    remove_if_abandoned(left)
                yield

    def made(self) -> list[str]:
        """Return the names of the backups, the oldest first."""
        with storage_errors("read", self.root):
            return sorted(path.stem for path in self.root.glob("*.json") if _MADE.fullmatch(path.stem))

    def put(self, source: Path, path: str, known: Mapping[str, BackupFile] | None = None) -> BackupFile | None:
        """Take a file in; one that has not changed since an earlier backup is not read again.

        Args:
            source: The file.
            path: Where it lies in the backup.
            known: What an earlier backup has, by path.

        Returns:
            What the manifest says of it; None if it is not there any more.

        Raises:
            StorageError: If it cannot be read or stored.
        """
        with storage_errors("back up", source):
            try:
                descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                before = (known or {}).get(path)
                same = before is not None and (before.bytes, before.modified_ns) == (status.st_size, status.st_mtime_ns)
                if before is not None and same and self._object(before.sha256).exists():
                    digest, size = before.sha256, before.bytes
                else:
                    digest, size = self._store(iter(lambda: file.read(_CHUNK), b""))
        return BackupFile(
            path=path, sha256=digest, bytes=size, mode=status.st_mode & 0o777, modified_ns=status.st_mtime_ns
        )

    def write(self, backup: Backup) -> None:
        """Write a backup's manifest, once all its contents are there: now it counts.

        Raises:
            StorageError: If there is one of this name, or it cannot be written.
        """
        fields = backup.model_dump(mode="json")
        text = json.dumps({"backup": fields, "sha256": _digest(fields)}, indent=1, sort_keys=True).encode()
        path = self._manifest(backup.made)
        with storage_errors("write", path), temporary_file(self.root) as (temporary, descriptor):
            os.fchmod(descriptor, 0o600)
            write_all(descriptor, text)
            if not link_once(temporary, descriptor, path):
                raise StorageError(f"there is a backup {backup.made} already")

    def read(self, made: str = "") -> Backup:
        """Return a backup's manifest, verified; the newest where none is named.

        Raises:
            StorageError: If it is not there, damaged, or of a form this WardRound does not know.
        """
        found = self.made()
        chosen = made or (found[-1] if found else "")
        if chosen not in found:
            there = f"there are {', '.join(found[-5:])}" if found else "there is none"
            raise StorageError(f"no backup {made} in {self.root}: {there}".replace("  ", " "))
        path = self._manifest(chosen)
        with storage_errors("read", path):
            text = path.read_bytes()
        try:
            whole = json.loads(text)
            backup = Backup.model_validate(whole["backup"])
        except ValidationError as error:
            raise StorageError(
                f"{path.name}: {first_mistake(error, 'the backup')}; another WardRound made it"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path.name} is damaged: take another backup of {self.root}") from error
        if whole.get("sha256") != _digest(whole["backup"]):
            raise StorageError(f"{path.name} is not what was written: take another backup of {self.root}")
        return backup

    def check(self, backup: Backup) -> None:
        """Read every content of a backup and compare it with its digest.

        Raises:
            StorageError: If one is missing or damaged.
        """
        for file in backup.files:
            self._copy(file, None)

    def fetch(self, file: BackupFile, target: Path) -> None:
        """Write a file of a backup to a place where nothing is; durable when this returns.

        Raises:
            StorageError: If its content is missing or not what its digest says, or the place cannot be written.
        """
        with storage_errors("restore", target), open(target, "xb") as output:
            os.fchmod(output.fileno(), file.mode)
            self._copy(file, output)
            output.flush()
            os.fsync(output.fileno())

    def _copy(self, file: BackupFile, output: BinaryIO | None) -> None:
        """Read a content to its end, and write it if it is asked for; refuse one that is not what its digest says."""
        source, digest = self._object(file.sha256), hashlib.sha256()
        with storage_errors("read", source):
            if not source.exists():
                raise StorageError(f"the backup's content of {file.path} is missing ({shown(source)})")
            with open(source, "rb") as content:
                while part := content.read(_CHUNK):
                    digest.update(part)
                    if output is not None:
                        output.write(part)
        if digest.hexdigest() != file.sha256:
            raise StorageError(
                f"the backup's content of {file.path} is damaged ({shown(source)}): take another copy of the backup"
            )

    def forget(self, keep: int) -> list[str]:
        """Drop all but the newest backups, and contents that none of those has; return the names of what went.

        Raises:
            ValueError: If none would be kept.
            StorageError: If a manifest that stays cannot be read: then nothing is dropped.
        """
        if keep < 1:
            raise ValueError(f"keep must be 1 or more, given {keep}")
        found = self.made()
        wanted = {file.sha256 for made in found[-keep:] for file in self.read(made).files}
        with storage_errors("tidy", self.root):
            for made in found[:-keep]:
                self._manifest(made).unlink()
            for path in (self.root / "objects").glob("*/*"):
                if path.name not in wanted:
                    path.unlink()
        return found[:-keep]

    def _store(self, parts: Iterable[bytes]) -> tuple[str, int]:
        """Store a content under its digest; return that and the size."""
        digest, size = hashlib.sha256(), 0
        make_folder(self.root / "objects")
        with temporary_file(self.root / "objects") as (temporary, descriptor):
            os.fchmod(descriptor, 0o600)
            for part in parts:
                digest.update(part)
                size += len(part)
                write_all(descriptor, part)
            target = self._object(digest.hexdigest())
            make_folder(target.parent)
            link_once(temporary, descriptor, target)
        return digest.hexdigest(), size

    def _object(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest

    def _manifest(self, made: str) -> Path:
        return self.root / f"{made}.json"


def _digest(fields: Any) -> str:
    """Return the digest of a manifest's fields."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
