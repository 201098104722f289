"""Batches in parts: each makes its gradients, all of a batch together one optimiser step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from components.errors import RefusedError

Batch = tuple[Tensor, Tensor]


class Batches(Protocol):
    """Batches of images and labels; each iteration is one pass over the items."""

    def __iter__(self) -> Iterator[Batch]:
        """Start the next pass."""
        ...

    def __len__(self) -> int:
        """Return the number of batches of a pass."""
        ...


class BatchParts(pl.Callback):
    r"""Hand a training its batches in parts, and add the parts' gradients up to that of the whole batch.

    A batch of :math:`n` items in :math:`p` parts of :math:`n_i` has the loss :math:`\sum_i \frac{n_i}{n} \ell_i`.
    Lightning, told to accumulate over :math:`p` batches, takes :math:`\frac{1}{p} \sum_i \ell_i`; where the parts
    are not equal, each part's gradient is scaled by :math:`p\,n_i / n`.

    It is the loader and a callback of the same fit; the Trainer's `accumulate_grad_batches` must be `parts`.

    Args:
        batches: Whole batches; each iteration is one pass.
        parts: Parts of each, 2 or more; a batch must have as many items.

    Guarantees:
        The items of each step are those of the whole batch, in its order. Up to rounding the gradients are
        too, for networks whose layers see one item at a time; BatchNorm sees parts.
    """

    def __init__(self, batches: Batches, parts: int) -> None:
        super().__init__()
        if parts < 2:
            raise ValueError(f"parts must be 2 or more, given {parts}")
        self._batches, self._parts = batches, parts
        self._shares: deque[float] = deque()  # of the parts handed out that had no backward pass yet

    def __len__(self) -> int:
        """Return the parts in one pass."""
        return len(self._batches) * self._parts

    def __iter__(self) -> Iterator[Batch]:
        """Yield the parts of one pass."""
        self._shares.clear()
        for images, labels in self._batches:
            if len(labels) < self._parts:
                raise RefusedError(f"a batch of {len(labels)} items cannot be split into {self._parts} parts")
            for part in torch.arange(len(labels)).tensor_split(self._parts):
                self._shares.append(self._parts * len(part) / len(labels))
                yield images[part], labels[part]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Scale the gradient of the next part."""
        share = self._shares.popleft()
        if share != 1.0:
            loss.register_hook(lambda gradient: gradient * share)  # type: ignore[no-untyped-call]
