"""Weights and their arithmetic: ``dict[str, Tensor]``, summed in double precision, in a fixed order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def zeros_like(weights: Mapping[str, Tensor], names: Iterable[str] | None = None) -> Weights:
    """Return zeros shaped like the named entries of `weights` (all of them by default)."""
    return {name: torch.zeros_like(weights[name]) for name in (weights if names is None else names)}


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes, independent of the order of the names.

    Returns:
        64 hexadecimal digits. Equal if and only if all entries are equal bit for bit (so ``-0.0``
        differs from ``0.0``).
    """
    state = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        state.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1e".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()


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
            weight: How much it counts: samples or optimiser steps, above zero.

        Raises:
            ValueError: If the weight is not above zero, an entry is not floating point, or the names
                or shapes differ from those of the first call.
        """
        if not weight > 0:
            raise ValueError(f"weight must be above zero, given {weight}")
        if self._sums and self._sums.keys() != weights.keys():
            raise ValueError(f"entries differ: {sorted(self._sums.keys() ^ weights.keys())[:5]}")
        for name, tensor in weights.items():
            if not tensor.is_floating_point():
                raise ValueError(f"entry {name!r} is {tensor.dtype}; only floating-point entries can be averaged")
            if name in self._sums and self._sums[name].shape != tensor.shape:
                raise ValueError(f"entry {name!r} has shape {tuple(tensor.shape)}, not {tuple(self._sums[name].shape)}")
        for name, tensor in weights.items():
            if name in self._sums:
                self._sums[name].add_(tensor.detach().double(), alpha=weight)
            else:
                self._sums[name] = tensor.detach().double() * weight
                self._dtypes[name] = tensor.dtype
        self._total += weight

    def result(self) -> Weights:
        """Return the mean, in the dtype each entry came in.

        Raises:
            ValueError: If nothing was added.
        """
        if not self._sums:
            raise ValueError("the mean of no updates is not defined")
        return {name: (total / self._total).to(self._dtypes[name]) for name, total in self._sums.items()}
