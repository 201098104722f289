"""Weights, their layout as bytes and their arithmetic: ``dict[str, Tensor]``, summed in double precision."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Weights = dict[str, Tensor]

# safetensors' names of the dtypes weights may have. The order is that of the layout: wider entries first,
# so that every entry starts at a multiple of its own width.
DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}
_PIECE = 1 << 17  # values, of 8 bytes
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class Entry(NamedTuple):
    """What can be known of one entry without its values: dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def describe(weights: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Return dtype and shape of each entry."""
    return {name: Entry(tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()}


def layout(entries: Mapping[str, Entry]) -> list[str]:
    """Return the names in the order in which their values are hashed and stored: by dtype, then by name."""
    return sorted(entries, key=lambda name: (_RANKS[entries[name].dtype], name))


def header(entries: Mapping[str, Entry]) -> bytes:
    """Return the only safetensors header that WardRound writes and reads for these entries.

    Eight bytes (length of the rest, little endian), compact JSON in the order of `layout`, spaces up to
    a multiple of eight. No metadata: the header is a function of names, dtypes and shapes alone.

    Raises:
        ValueError: If an entry's dtype is not in `DTYPES`, or its name is reserved or not valid Unicode.

    >>> header({"w": Entry(torch.float32, (2, 3))})[8:]
    b'{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}       '
    """
    for name, entry in entries.items():
        if entry.dtype not in _CODES:
            raise ValueError(f"entry {name!r} is {entry.dtype}; weights may be {', '.join(map(str, _CODES))}")
    if "__metadata__" in entries:
        raise ValueError("an entry cannot be called '__metadata__': safetensors keeps that name for itself")
    fields, start = {}, 0
    for name in layout(entries):
        dtype, shape = entries[name]
        end = start + entries[name].bytes
        fields[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def buffer(tensor: Tensor) -> memoryview:
    """Return the values of one entry as bytes in row-major order, without a copy where there need be none."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def zeros_like(weights: Mapping[str, Tensor], names: Iterable[str] | None = None) -> Weights:
    """Return zeros shaped like the named entries of `weights` (all of them by default)."""
    return {name: torch.zeros_like(weights[name]) for name in (weights if names is None else names)}


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, independent of the order of the names.

    It is the SHA-256 of the file that `components.exchange.codec.write_weights` writes, so one pass over
    the bytes serves both, and ``sha256sum`` checks a stored file by hand.

    Returns:
        64 hexadecimal digits. Equal if and only if all entries are equal bit for bit (so ``-0.0``
        differs from ``0.0``).

    Raises:
        ValueError: As `header`.

    >>> digest({"w": torch.tensor([1.0])})[:12]
    'd7e1133cd341'
    """
    entries = describe(weights)
    state = hashlib.sha256(header(entries))
    for name in layout(entries):
        state.update(buffer(weights[name]))
    return state.hexdigest()


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value of a tensor is NaN or infinite.

    The least and the largest value are NaN if any value is; they cost one pass and no memory.

    >>> is_finite(torch.tensor([1.0, -2.0])), is_finite(torch.tensor([1.0, float("nan"), 2.0]))
    (True, False)
    """
    return not tensor.numel() or all(bool(torch.isfinite(value)) for value in torch.aminmax(tensor.detach()))


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return views of a contiguous tensor, `_PIECE` values each, or copies of another's."""
    return torch.split(tensor.reshape(-1), _PIECE)


class WeightedMean:
    r"""A running weighted mean :math:`\sum_k n_k w_k / \sum_k n_k` in double precision.

    Entries are added one update at a time, so memory does not grow with the number of sites.

    Guarantees:
        The mean of one update is that update, bit for bit, for float32 entries and below and for
        integer weights up to 2**29: the product is exact in double precision and so is its quotient.
        The result depends on the order of `add`; callers add in the order of site names.

    >>> mean = WeightedMean()
    >>> mean.add({"w": torch.tensor([1.0])}, 1)
    >>> mean.add({"w": torch.tensor([4.0])}, 2)
    >>> mean.result()["w"].item()
    3.0
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._total = 0.0

    def add(self, weights: Mapping[str, Tensor], weight: float) -> None:
        """Add one set of weights.

        Args:
            weights: Floating-point entries; the same names and shapes every time.
            weight: How much it counts: samples or optimiser steps, above zero and finite.

        Raises:
            ValueError: If the weight is not above zero and finite, an entry is not floating point, or the names
                or shapes differ from those of the first call.
        """
        if not 0 < weight < math.inf:
            raise ValueError(f"weight must be above zero and finite, given {weight}")
        if self._sums and self._sums.keys() != weights.keys():
            raise ValueError(f"entries differ: {sorted(self._sums.keys() ^ weights.keys())[:5]}")
        for name, tensor in weights.items():
            if not tensor.is_floating_point():
                raise ValueError(f"entry {name!r} is {tensor.dtype}; only floating-point entries can be averaged")
            if name in self._sums and self._sums[name].shape != tensor.shape:
                raise ValueError(f"entry {name!r} has shape {tuple(tensor.shape)}, not {tuple(self._sums[name].shape)}")
        for name, tensor in weights.items():
            if name in self._sums:
                # In pieces that stay in the processor's cache: twice as fast, and no second copy in double.
                pieces = zip(_pieces(self._sums[name]), _pieces(tensor.detach()), strict=True)
                for total, piece in pieces:
                    total.add_(piece.double(), alpha=weight)
            else:
                double = tensor.detach().to(torch.float64, memory_format=torch.contiguous_format, copy=True)
                self._sums[name] = double.mul_(weight)
                self._dtypes[name] = tensor.dtype
        self._total += weight

    @property
    def names(self) -> frozenset[str]:
        """Names of the entries added so far; empty before the first."""
        return frozenset(self._sums)

    def entry(self, name: str) -> Tensor:
        """Return the mean of one entry in double precision, before it is rounded to the entry's dtype."""
        return self._sums[name] / self._total

    def result(self) -> Weights:
        """Return the mean, in the dtype each entry came in.

        Raises:
            ValueError: If nothing was added.
        """
        if not self._sums:
            raise ValueError("the mean of no updates is not defined")
        return {name: self.entry(name).to(dtype) for name, dtype in self._dtypes.items()}
