"""The exchange as a folder: weights by their digest, and one write-once slot per site, round and attempt.

::

    objects/<digest>.safetensors                                       weights everybody may read
    slots/<training>/<round>/<attempt>/<site>/<digest>.safetensors     an update, as its site wrote it
    slots/<training>/<round>/<attempt>/<site>/answer.json              the answer that seals the slot

Any number of processes may write at the same time; a process killed at any instant leaves what was there
before, or the whole new file, and at most a temporary file that `FolderStore.sweep` removes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from components.errors import RefusedError, StorageError
from components.exchange.codec import DEFAULT_LIMITS, ReadLimits, WrittenFile, read_weights, write_into
from components.files import (
    TEMPORARY,
    has_digest,
    link_once,
    make_folder,
    remove_if_abandoned,
    replace_file,
    shown,
    storage_errors,
    temporary_file,
    write_all,
)
from components.rounds import NAME_PATTERN, SHA256_PATTERN, Answer, UpdateManifest
from components.weights import Weights

_NAME = re.compile(NAME_PATTERN)
_DIGEST = re.compile(SHA256_PATTERN)
_ANSWER = "answer.json"
_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True)
class Slot:
    """The place of one site's update in one attempt at one round.

    Args:
        training: Identifier of the training.
        round: Number of the round, counted from 1.
        attempt: Number of the attempt, counted from 1.
        site: Name of the site.
    """

    training: str
    round: int
    attempt: int
    site: str

    def __post_init__(self) -> None:
        for field in ("training", "site"):
            if not isinstance(getattr(self, field), str) or not _NAME.fullmatch(getattr(self, field)):
                raise ValueError(f"{field} must match {_NAME.pattern}, given {getattr(self, field)!r}")
        for field in ("round", "attempt"):
            if type(getattr(self, field)) is not int or getattr(self, field) < 1:
                raise ValueError(f"{field} must be a whole number from 1, given {getattr(self, field)!r}")

    @property
    def folder(self) -> Path:
        """Path below ``slots``."""
        return Path(self.training, str(self.round), str(self.attempt), self.site)

    def __str__(self) -> str:
        return f"{self.site} in round {self.round} (attempt {self.attempt}) of {self.training}"


class FolderStore:
    """The exchange in one folder, on a disk with hard links and file locks.

    Args:
        root: The folder; made on the first write.
        limits: Largest file that is read.
    """

    def __init__(self, root: str | Path, *, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        self.root = Path(root)
        self._limits = limits
        self._last: tuple[str, Weights] | None = None

    def put_weights(self, weights: Mapping[str, Tensor]) -> str:
        """Store weights under their digest, and return it; durable when this returns.

        Weights that are there already are written again: so an object that was damaged is whole again.

        Raises:
            StorageError: If they cannot be written.
            ValueError: As `components.weights.header`.
        """
        return self._write(self.root / "objects", weights).sha256

    def mend(self, digest: str, weights: Mapping[str, Tensor]) -> bool:
        """Write weights anew if what lies under their digest is damaged, or is not there.

        Args:
            digest: Their digest.
            weights: The weights, as they are in memory.

        Returns:
            Whether they had to be.

        Raises:
            StorageError: If they cannot be written, or those in memory are damaged too.
        """
        if has_digest(self.path(digest), digest):
            return False
        self._last = None
        if self.put_weights(weights) != digest:
            raise StorageError(f"weights {digest} in the store are damaged: restore the file from a backup")
        return True

    def path(self, digest: str) -> Path:
        """Return where the weights with this digest lie, whether or not they are there.

        Raises:
            ValueError: If `digest` is not 64 lower-case hexadecimal digits.
        """
        return self.root / "objects" / _file_name(digest)

    def __contains__(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def get(self, digest: str) -> Weights:
        """Return the weights with this digest, memory-mapped and verified.

        The last ones are kept: the sites of one process start a round from the same weights, one after another.

        Raises:
            StorageError: If they are not there or damaged.
            ValueError: As `path`.
        """
        path = self.path(digest)
        last = self._last
        if last is not None and last[0] == digest and path.is_file():
            return dict(last[1])
        if not path.is_file():
            raise StorageError(
                f"weights {digest} are not in the store {shown(self.root)}: is this the folder the training was "
                "started with? Restore the file from a backup, or start a new training"
            )
        try:
            weights = read_weights(path, expected_digest=digest, limits=self._limits)
        except RefusedError as error:
            raise StorageError(
                f"weights {digest} in the store are damaged ({error}): restore that file from a backup, or start a "
                "new training"
            ) from error
        self._last = digest, weights
        return dict(weights)

    def update_path(self, slot: Slot, digest: str) -> Path:
        """Return where an update with this digest lies in its slot, whether or not it is there.

        Raises:
            ValueError: If `digest` is not 64 lower-case hexadecimal digits.
        """
        return self._folder(slot) / _file_name(digest)

    def put_update(self, slot: Slot, weights: Mapping[str, Tensor]) -> WrittenFile:
        """Write a site's update into its slot; `submit` then seals it.

        Until the slot is sealed, a site that was interrupted may write again.

        Raises:
            RefusedError: If the slot is sealed with another update.
            StorageError: If the update cannot be written.
            ValueError: As `components.weights.header`.
        """
        written = self._write(self._folder(slot), weights)
        sealed = self.slot_answer(slot)
        if sealed is not None and (sealed.update is None or sealed.update.file_sha256 != written.sha256):
            with storage_errors("remove", self.update_path(slot, written.sha256)):
                self.update_path(slot, written.sha256).unlink(missing_ok=True)
            raise RefusedError(f"{slot} is sealed with another answer; it cannot be changed")
        return written

    def submit(self, slot: Slot, answer: Answer) -> bool:
        """Seal a slot with its answer; durable when this returns.

        Args:
            slot: The slot.
            answer: The answer. What its manifest states must lie in the slot.

        Returns:
            True if this sealed the slot; False if it had been sealed with this very answer (the same
            delivery twice; only the durations may differ).

        Raises:
            RefusedError: If the slot is sealed with another answer, the answer is for another slot or too
                long, or the update it states is not in the slot.
            StorageError: If it cannot be written.
        """
        text = answer.model_dump_json().encode()
        if (answer.site, answer.round) != (slot.site, slot.round):
            raise RefusedError(f"an answer of {answer.site!r} in round {answer.round} does not belong to {slot}")
        if len(text) > _ANSWER_BYTES:
            raise RefusedError(f"the answer of {slot} has {len(text)} bytes, at most {_ANSWER_BYTES} are accepted")
        if answer.update is not None:
            self._require_file(slot, answer.update)
        target = self._folder(slot) / _ANSWER
        with storage_errors("write", target):
            make_folder(target.parent)
            with temporary_file(target.parent) as (temporary, descriptor):
                write_all(descriptor, text)
                if link_once(temporary, descriptor, target):
                    return True
        sealed = self.slot_answer(slot)
        if sealed is None or _essence(sealed) != _essence(answer):
            raise RefusedError(f"{slot} is sealed with another answer; it cannot be changed")
        return False

    def slot_answer(self, slot: Slot) -> Answer | None:
        """Return the answer that sealed a slot; None if it is still open.

        Raises:
            StorageError: If it cannot be read or is damaged.
        """
        path = self._folder(slot) / _ANSWER
        with storage_errors("read", path):
            try:
                return Answer.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                return None
            except ValidationError as error:
                raise StorageError(
                    f"the stored answer of {slot} is damaged: delete its {_ANSWER}, then the site is asked again"
                ) from error

    def get_update(self, slot: Slot, manifest: UpdateManifest) -> Weights:
        """Return the update that a manifest states, memory-mapped and verified against it.

        Raises:
            RefusedError: If it is not in the slot, or its size, header or bytes are not as stated.
            StorageError: If it cannot be read.
        """
        self._require_file(slot, manifest)
        path = self.update_path(slot, manifest.file_sha256)
        return read_weights(path, expected_digest=manifest.file_sha256, limits=self._limits)

    def sweep(
        self, keep: Collection[str], *, open_rounds: Collection[tuple[str, int]] = (), min_age_s: float = 3600.0
    ) -> int:
        """Remove what is no longer needed, and what killed processes left behind.

        Args:
            keep: Digests of the weights that stay: those of every training that uses this store.
            open_rounds: Rounds, as (training, number), whose slots stay.
            min_age_s: Weights and slots written in the last so many seconds stay too: another process may
                be about to refer to them.

        Returns:
            Bytes freed.

        Raises:
            StorageError: If something cannot be removed.
        """
        before = time.time() - min_age_s
        kept = {_file_name(digest) for digest in keep}
        still_open = {(training, str(number)) for training, number in open_rounds}
        freed = 0
        with storage_errors("sweep", self.root):
            folders = _older_folders(self.root / "slots", before)
            for path in _files(self.root / "objects", "*.safetensors"):
                freed += 0 if path.name in kept else _remove_older(path, before)
            for path in _files(self.root / "slots", "*/*/*/*/[!.]*"):
                is_open = path.relative_to(self.root / "slots").parts[:2] in still_open
                freed += 0 if is_open else _remove_older(path, before)
            for pattern in (f"objects/{TEMPORARY}*", f"slots/*/*/*/*/{TEMPORARY}*"):
                freed += sum(remove_if_abandoned(path) for path in _files(self.root, pattern))
            for folder in folders:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()
        return freed

    def _write(self, folder: Path, weights: Mapping[str, Tensor]) -> WrittenFile:
        """Write weights into a folder, under their digest."""
        with storage_errors("write", folder):
            make_folder(folder)
            with temporary_file(folder) as (temporary, descriptor):
                written = write_into(descriptor, weights)
                replace_file(temporary, descriptor, folder / _file_name(written.sha256))
        return written

    def _folder(self, slot: Slot) -> Path:
        """Return a slot's folder."""
        return self.root / "slots" / slot.folder

    def _require_file(self, slot: Slot, manifest: UpdateManifest) -> None:
        """Refuse a manifest that does not fit the file in the slot."""
        if manifest.weights_digest != manifest.file_sha256:
            raise RefusedError(f"{slot}: weights_digest and file_sha256 differ; they are one and the same")
        path = self.update_path(slot, manifest.file_sha256)
        with storage_errors("read", path):
            size = path.stat().st_size if path.is_file() else None
        if size != manifest.bytes:
            found = "there is none" if size is None else f"it has {size}"
            raise RefusedError(f"{slot} states a file {manifest.file_sha256} of {manifest.bytes} bytes; {found}")


def _file_name(digest: str) -> str:
    """Return the name of a file of weights."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"digest must be 64 lower-case hexadecimal digits, given {digest!r}")
    return f"{digest}.safetensors"


def _essence(answer: Answer) -> dict[str, object]:
    """Return what makes two answers the same: everything but how long it took."""
    return answer.model_dump(exclude={"seconds"})


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files that match, in the order of their names; none if there is no such folder."""
    return (path for path in _found(folder, pattern) if path.is_file())


def _found(folder: Path, pattern: str) -> list[Path]:
    """Return what matches, in the order of names, also while another sweep removes folders that are looked through."""
    while True:
        try:
            return sorted(folder.glob(pattern))
        except FileNotFoundError:  # of a folder below: one that is not there at all has nothing that matches
            continue


def _remove_older(path: Path, before: float) -> int:
    """Remove a file last written before a time (seconds since 1970) and return its bytes, or 0."""
    try:
        status = path.stat()
        if status.st_mtime >= before:
            return 0
        path.unlink()
    except FileNotFoundError:  # another sweep was faster
        return 0
    return status.st_size


def _older_folders(folder: Path, before: float) -> list[Path]:
    """Return the folders below `folder` that nothing was put into since a time, deepest first."""
    older = []
    for path in _found(folder, "*/**/"):
        with suppress(FileNotFoundError):  # another sweep was faster
            older += [path] if path.stat().st_mtime < before else []
    return sorted(older, key=lambda path: -len(path.parts))
