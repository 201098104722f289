"""One site, one round: train the module it was given on its own items, with Lightning."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor

from components.errors import DataError, RefusedError
from components.rounds import Split
from components.training.accumulation import Batch, Batches, BatchParts
from components.training.contained import contained
from components.training.devices import Device, Precision, check_precision, choose_device
from components.training.exchanged_entries import load_entries, read_entries
from components.training.progress import Tell, Teller
from components.training.proximal import ProximalCorrection
from components.training.trainer import trainer_of
from components.weights import Weights, is_finite

__all__ = ["SiteBatches", "SiteResult", "TrainingOrder", "load_entries", "train_site"]

WORST_LOSS = 1e6  # of an item, on average: a likelihood of e^-1e6 is no model's but that of one which diverges


class SiteBatches(Protocol):
    """The part of a site's data that training needs; `components.data.site_data.SiteData` has it."""

    @property
    def class_counts(self) -> Mapping[Split, Sequence[int]]:
        """Items of each class, by split."""
        ...

    def labels(self, split: Split) -> Tensor:
        """Return the labels of a split, [N] or [N, C]."""
        ...

    def train_batches(self, *, batch_size: int, seed: int, balanced: bool) -> Batches:
        """Return batches of which each iteration is the next pass, in an order that is a function of `seed`."""
        ...


def training_items(data: SiteBatches) -> int:
    """Return how many training items a site has.

    Raises:
        DataError: If it has none.
    """
    items = len(data.labels("train"))
    if items == 0:
        raise DataError("the site has no training items; look at its quarantine list and its splits")
    return items


def whole_site(data: SiteBatches, seed: int) -> tuple[Tensor, Tensor]:
    """Return all training rows of a site and their labels, for what is added up over them at once.

    Raises:
        DataError: If there are none.
    """
    return next(iter(data.train_batches(batch_size=training_items(data), seed=seed, balanced=False)))


@runtime_checkable
class CountsClasses(Protocol):
    """A module whose loss depends on how frequent the site's classes are."""

    def set_class_counts(self, counts: Sequence[int], items: int) -> None:
        """Take the site's items per class, and the number of its items."""
        ...


@dataclass(frozen=True)
class TrainingOrder:
    """What to do in one round.

    Attributes:
        epochs: Passes over the training items (this or `steps`).
        steps: Optimiser steps, counted on through as many passes as they need.
        batch_size: Items per step.
        balanced: Whether each class is drawn equally often.
        precision: ``32``, ``16-mixed`` or ``bf16-mixed``.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Already derived for study, site and round.
        proximal_weight: FedProx's mu; 0 leaves the gradients alone.
        parts: Parts a batch goes through the network in, one after another; all of it is still one step.
    """

    epochs: int | None
    steps: int | None
    batch_size: int
    balanced: bool
    precision: Precision
    device: Device
    seed: int
    proximal_weight: float = 0.0
    parts: int = 1

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give epochs or steps: exactly one of them")
        for name in ("epochs", "steps", "batch_size", "parts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, given {value}")


@dataclass(frozen=True)
class SiteResult:
    """What came out of one round.

    Attributes:
        weights: All exchanged entries, on the CPU, of the site's own memory.
        samples: The site's training items.
        steps: Optimiser steps taken.
        loss_sum: Training loss added up over the items of the last pass, so that ``loss_sum / samples``
            is its mean; if the last pass was cut short by `steps`, from the batches since one pass ago.
        seconds: Wall time.
    """

    weights: Weights
    samples: int
    steps: int
    loss_sum: float
    seconds: float


def train_site(
    module: pl.LightningModule, data: SiteBatches, order: TrainingOrder, *, tell: Tell | None = None
) -> SiteResult:
    """Train a module on a site's own items, from the weights it holds now.

    A new optimiser every time; nothing is carried over from the round before but the weights.

    Args:
        module: Trained in place; left on the CPU, in training mode.
        data: The site's data.
        order: How.
        tell: Is told how far it is, about twice a second; see `components.training.progress.Teller`.

    Returns:
        The trained entries, and what the server needs to weigh them.

    Raises:
        DataError: If the site has no training items, or a batch has too few for the network.
        RefusedError: If the loss or a weight stopped being finite, the loss is above `WORST_LOSS`, or device or
            precision are not there.

    Guarantees:
        On the CPU the result is a function of the module's weights, the data and the order, bit for
        bit, and equal to a plain PyTorch loop over the same batches. On a GPU cuDNN's deterministic
        algorithms are chosen, yet a few backward kernels still add up in any order. Torch's random
        state and the signal handlers of the caller are left as they were. One training at a time in a
        process: torch's random state is shared by its threads.
    """
    started = time.perf_counter()
    device = choose_device(order.device)
    check_precision(order.precision, device)
    samples = training_items(data)
    if isinstance(module, CountsClasses):
        module.set_class_counts(data.class_counts["train"], samples)
    # Since 2.2 Lightning trains in the mode it finds: after an evaluation, BatchNorm would stay frozen.
    module.train()
    batches = data.train_batches(batch_size=order.batch_size, seed=order.seed, balanced=order.balanced)
    teller = None if tell is None else _teller(tell, len(batches), order)
    losses = _LastPass(len(batches), order.parts, teller)
    steps = _fit(module, batches, order, device=device, losses=losses)
    weights = read_entries(module)
    _check_finite(weights)
    return SiteResult(
        weights=weights,
        samples=samples,
        steps=steps,
        loss_sum=losses.mean() * samples,
        seconds=time.perf_counter() - started,
    )


def _fit(
    module: pl.LightningModule, batches: Batches, order: TrainingOrder, *, device: torch.device, losses: _LastPass
) -> int:
    """Run Lightning; return the optimiser steps taken."""
    callbacks: list[pl.Callback] = [losses]
    if order.proximal_weight:
        callbacks.append(ProximalCorrection(order.proximal_weight))
    loader: _Loader | BatchParts = _Loader(batches)
    if order.parts > 1:
        loader = BatchParts(batches, order.parts)
        callbacks.append(loader)
    with contained(device, order.seed):
        trainer = trainer_of(module, device, order.precision)
        try:
            return trainer.fit_for(
                module, loader, epochs=order.epochs, steps=order.steps, callbacks=callbacks, accumulate=order.parts
            )
        except BaseException as error:
            module.trainer = None  # stopped in the middle of an epoch: not to be used again
            module.zero_grad()  # as much memory as the weights
            if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
                raise DataError(
                    "a batch of one small image cannot pass through BatchNorm; choose local.batch_size so that "
                    "no batch, not even the last of a pass, has a single item"
                ) from error
            raise


def _teller(tell: Tell, batches: int, order: TrainingOrder) -> Teller:
    """Return what counts a training's batches, or the parts of them."""
    a_pass = batches * order.parts
    total = a_pass * order.epochs if order.epochs is not None else (order.steps or 0) * order.parts
    return Teller(tell, batches=a_pass, total=total)


class _Loader:
    """Batches as Lightning wants them: one object with a length, neither a list nor a DataLoader.

    Lightning takes a list for several loaders, and has advice on the workers of a DataLoader.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: Lightning also makes iterators that it throws away, and those must not count as passes.
        yield from self._batches


class _LastPass(pl.Callback):
    """Remembers the losses of as many batches, or parts of them, as a pass has, and refuses what is not finite."""

    def __init__(self, batches: int, parts: int, teller: Teller | None) -> None:
        super().__init__()
        self._teller = teller
        self._parts = parts  # Lightning divides each part's loss by it
        self._losses: deque[tuple[Tensor, int]] = deque(maxlen=batches * parts)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the loss where it is: reading it would make the GPU wait."""
        self._losses.append((outputs["loss"], len(batch[0])))
        if self._teller is not None:
            self._teller.count()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop early, once a pass."""
        self.mean()

    def mean(self) -> float:
        """Return the mean loss of an item, or refuse."""
        items = sum(number for _, number in self._losses)
        mean = math.fsum(loss.item() * self._parts * number for loss, number in self._losses) / items
        if not abs(mean) < WORST_LOSS:  # neither is what is no number
            raise RefusedError(
                "the training loss stopped being finite, or grew without end; lower local.optimizer.learning_rate, or "
                "use precision 32"
            )
        return mean


def _check_finite(weights: Weights) -> None:
    """Refuse weights that are not finite."""
    for name, tensor in weights.items():
        if not is_finite(tensor):
            raise RefusedError(f"entry {name!r} is not finite after training; lower local.optimizer.learning_rate")
