"""Weights as safetensors files: written in one pass, and read only if every byte is as it must be.

There is exactly one file for given weights: the one that `components.weights.header` begins, followed by the
values in the order of `components.weights.layout`. (The safetensors library writes the same bytes, as long
as it is given no metadata.) So the SHA-256 of the file is the digest of the weights, bytes are hashed once
while they are written and once when they are read, and a header can be checked by writing it again.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from components.errors import RefusedError
from components.files import make_folder, replace_file, shown, storage_errors, temporary_file, write_all
from components.weights import DTYPES, Entry, Weights, buffer, describe, header, layout

# Hashed and written in pieces that stay in the processor's cache from the one to the other.
_PIECE = 1 << 20


@dataclass(frozen=True)
class WrittenFile:
    """A file of weights that was written.

    Attributes:
        sha256: SHA-256 of the file.
        bytes: Size of the file.
    """

    sha256: str
    bytes: int

    @property
    def weights_digest(self) -> str:
        """`components.weights.digest` of the weights: the same as `sha256`."""
        return self.sha256


@dataclass(frozen=True)
class ReadLimits:
    """What is refused before anything is read.

    Attributes:
        file_bytes: Largest file. The default holds 16,000 million float32 parameters.
        header_bytes: Largest header. The default has room for about 100,000 entries.
    """

    file_bytes: int = 1 << 36
    header_bytes: int = 1 << 24


DEFAULT_LIMITS = ReadLimits()


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> WrittenFile:
    """Write weights to a file that is there whole or not at all, and durable when this returns.

    Args:
        path: Where to; its folder is made if need be, a file that lies there is replaced.
        weights: The entries; see `components.weights.DTYPES` for their dtypes.

    Raises:
        StorageError: If the file cannot be written; what lay there before is then unharmed.
        ValueError: If an entry has another dtype or a reserved name.
    """
    with storage_errors("write", path):
        make_folder(path.parent)
        with temporary_file(path.parent) as (temporary, descriptor):
            written = write_into(descriptor, weights)
            replace_file(temporary, descriptor, path)
    return written


def write_into(descriptor: int, weights: Mapping[str, Tensor]) -> WrittenFile:
    """Write and hash weights in one pass, one entry in memory at a time (if they are on a GPU)."""
    state, size = hashlib.sha256(), 0
    entries = describe(weights)
    for data in _parts(header(entries), weights, layout(entries)):
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            state.update(piece)
            write_all(descriptor, piece)
        size += len(data)
    return WrittenFile(sha256=state.hexdigest(), bytes=size)


def _parts(head: bytes, weights: Mapping[str, Tensor], names: list[str]) -> Iterator[memoryview]:
    """Yield the parts of a file in order."""
    yield memoryview(head)
    for name in names:
        yield buffer(weights[name])


def read_entries(path: Path, *, limits: ReadLimits = DEFAULT_LIMITS) -> dict[str, Entry]:
    """Return names, dtypes and shapes of a file of weights, from its header alone.

    Raises:
        StorageError: If the file cannot be read.
        RefusedError: If it is not a file that `write_weights` writes, or is larger than `limits`.
    """
    with storage_errors("read", path), path.open("rb") as file:
        return _checked_header(file, path, limits)[0]


def read_weights(path: Path, *, expected_digest: str, limits: ReadLimits = DEFAULT_LIMITS) -> Weights:
    """Read weights through a private memory map: nothing is copied, and nothing is allocated for the values.

    Args:
        path: The file.
        expected_digest: What the file must hash to.
        limits: What is refused before anything is read.

    Returns:
        The entries. They may be changed in memory; the file is not. (Nothing else may write into the file:
        files of weights are replaced, never changed.)

    Raises:
        StorageError: If the file cannot be read.
        RefusedError: If it is not a file that `write_weights` writes, is larger than `limits`, or does not
            hash to `expected_digest`.
    """
    with storage_errors("read", path), path.open("rb") as file:
        entries, start = _checked_header(file, path, limits)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        _verify_digest(hashlib.sha256(mapped).hexdigest(), expected_digest, path)
    weights = {}
    for name in layout(entries):
        weights[name] = _tensor(mapped, entries[name], start)
        start += entries[name].bytes
    return weights


def iterate_weights(
    path: Path, *, expected_digest: str, limits: ReadLimits = DEFAULT_LIMITS
) -> Iterator[tuple[str, Tensor]]:
    """Yield the entries one at a time, in the order of `components.weights.layout`.

    For models that are worked on tensor by tensor: memory is that of the largest entry.

    Raises:
        StorageError: If the file cannot be read.
        RefusedError: As `read_weights`, before the first entry is yielded.
    """
    with storage_errors("read", path), path.open("rb") as file:
        entries, start = _checked_header(file, path, limits)
        file.seek(0)
        _verify_digest(hashlib.file_digest(file, "sha256").hexdigest(), expected_digest, path)
        file.seek(start)
        for name in layout(entries):
            data = bytearray(entries[name].bytes)
            if file.readinto(data) != len(data):
                raise RefusedError(f"{shown(path)} became shorter while it was read")
            yield name, _tensor(data, entries[name], 0)


def _tensor(data: mmap.mmap | bytearray, entry: Entry, offset: int) -> Tensor:
    """Return a tensor over some bytes; an empty one has no bytes to lie over."""
    if not entry.bytes:
        return torch.empty(entry.shape, dtype=entry.dtype)
    count = math.prod(entry.shape)
    return torch.frombuffer(data, dtype=entry.dtype, count=count, offset=offset).reshape(entry.shape)


def _verify_digest(found: str, expected: str, path: Path) -> None:
    """Refuse a file that is not the one that was asked for."""
    if found != expected:
        raise RefusedError(f"{shown(path)} hashes to {found}, expected {expected}: it was changed or damaged")


def _checked_header(file: BinaryIO, path: Path, limits: ReadLimits) -> tuple[dict[str, Entry], int]:
    """Return the entries and where their values start, after everything but the values was checked."""
    size = os.fstat(file.fileno()).st_size
    if size > limits.file_bytes:
        raise RefusedError(f"{shown(path)} has {size} bytes, at most {limits.file_bytes} are accepted")
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > limits.header_bytes or 8 + length > size:
        raise RefusedError(
            f"{shown(path)} has {size} bytes and states a header of {length}: not a safetensors file, or cut short"
        )
    text = file.read(length)
    try:
        entries = _entries(json.loads(text))
        canonical = header(entries)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"{shown(path)} has a header that cannot be used: {str(error)[:200]}") from error
    needed = len(canonical) + sum(entry.bytes for entry in entries.values())
    # The header is a function of names, dtypes and shapes: whatever else it may say (offsets that overlap or
    # leave holes, a name twice, metadata), it is then not the same bytes.
    if canonical != prefix + text:
        raise RefusedError(f"{shown(path)} has a header that is not the one for its entries (offsets, order, padding)")
    if needed != size:
        raise RefusedError(f"{shown(path)} has {size} bytes, its header states {needed}")
    return entries, len(canonical)


def _entries(fields: Any) -> dict[str, Entry]:
    """Return the entries a parsed header states; raises whatever it meets where that is no header."""
    if "__metadata__" in fields:
        raise ValueError("it holds metadata; files of weights have none")
    entries = {}
    for name, field in fields.items():
        if field.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"an entry must have dtype, shape and data_offsets, found {list(field)[:5]}")
        shape = field["shape"]
        if not isinstance(shape, list) or len(shape) > 16 or not all(type(axis) is int for axis in shape):
            raise ValueError(f"the shape of an entry must be a list of at most 16 whole numbers, found {shape!r}")
        # Also keeps an empty entry from stating axes that no tensor can have.
        if any(axis < 0 for axis in shape) or math.prod(max(axis, 1) for axis in shape) >= 1 << 48:
            raise ValueError(f"an entry cannot have the shape {shape}")
        if field["dtype"] not in DTYPES:
            raise ValueError(f"an entry's dtype must be one of {', '.join(DTYPES)}, found {field['dtype']!r}")
        entries[name] = Entry(DTYPES[field["dtype"]], tuple(shape))
    return entries
