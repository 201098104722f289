"""Batches straight from the decoded tensor: one indexing per batch, no collation of single items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from components.data.augment import augment
from components.seeds import derive_seed

Batch = tuple[Tensor, Tensor]


@dataclass
class TrainBatches:
    """Training batches in a seeded order; Lightning takes it as a data loader.

    Each pass over it is one epoch with an order of its own: a function of `seed` and of how many
    passes were begun before, so that an object made anew with the same seed repeats them all.

    Attributes:
        images: float32 ``[M, C, *spatial]``.
        labels: ``[M]`` or ``[M, K]``.
        rows: Rows of the training items in both.
        batch_size: Items per batch; the last one of a pass may be smaller. A single last item joins the
            batch before it: BatchNorm has no variance of one item.
        seed: Decides order, draws and augmentation.
        balanced: Draw as many items as there are, with replacement, each class equally often (in
            multilabel: each combination of classes).
        kinds: Random transforms, see `components.data.augment`.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    batch_size: int
    seed: int
    balanced: bool = False
    kinds: Sequence[str] = ()
    _passes: int = field(default=0, init=False)

    def __len__(self) -> int:
        """Return the batches in one pass."""
        return -(-len(self.rows) // self.batch_size) - self._folds()

    def __iter__(self) -> Iterator[Batch]:
        """Begin the next pass; it counts once its first batch is taken."""
        number, self._passes = self._passes, self._passes + 1
        draw = Generator().manual_seed(derive_seed(self.seed, "order", number))
        noise = Generator().manual_seed(derive_seed(self.seed, "augment", number))
        parts = list(torch.split(self._order(draw), self.batch_size))
        if self._folds():
            parts[-2:] = [torch.cat(parts[-2:])]
        for chosen in parts:
            yield augment(self.images[chosen], self.kinds, noise), self.labels[chosen]

    def _folds(self) -> bool:
        """Whether a pass would end with a batch of a single item."""
        return 1 < self.batch_size < len(self.rows) and len(self.rows) % self.batch_size == 1

    def _order(self, draw: Generator) -> Tensor:
        """Return the rows of one pass, in order."""
        if not self.balanced:
            return self.rows[torch.randperm(len(self.rows), generator=draw)]
        _, groups, counts = torch.unique(self.labels[self.rows], dim=0, return_inverse=True, return_counts=True)
        chosen = torch.multinomial(1.0 / counts[groups], len(self.rows), replacement=True, generator=draw)
        return self.rows[chosen]


@dataclass(frozen=True)
class EvaluationBatches:
    """Batches of one split, in the order of the items, unchanged; the same on every pass.

    Attributes:
        images: float32 ``[M, C, *spatial]``.
        labels: ``[M]`` or ``[M, K]``.
        rows: Rows of the split's items in both.
        batch_size: Items per batch; the last one may be smaller.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    batch_size: int

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield ``(images, labels)``."""
        for chosen in torch.split(self.rows, self.batch_size):
            if len(chosen):  # split gives one empty part of nothing
                yield self.images[chosen], self.labels[chosen]
