"""A Lightning Trainer with everything off that a round does not need, used again from round to round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from components.training.devices import Precision


class SiteTrainer(pl.Trainer):
    """A Trainer for many short fits on one device.

    Making a Trainer costs as much as starting a fit: Lightning looks through the metadata of every
    installed distribution for callbacks. So the module keeps its Trainer (`trainer_of`); each fit
    counts on from where the last one ended, and no optimiser, callback or data is kept in between.

    Args:
        device: Where to train.
        precision: ``32``, ``16-mixed`` or ``bf16-mixed``.
    """

    def __init__(self, device: torch.device, precision: Precision) -> None:
        super().__init__(
            accelerator=device.type,
            devices=[device.index] if device.type == "cuda" else 1,
            precision=precision,
            max_epochs=-1,
            # Named, so that Lightning does not look for SLURM or torchrun around it and take orders from them.
            plugins=[LightningEnvironment()],
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        self.made_for = (device, precision)

    def fit_for(
        self,
        module: pl.LightningModule,
        batches: Iterable[Any],
        *,
        epochs: int | None,
        steps: int | None,
        callbacks: Sequence[pl.Callback],
        accumulate: int = 1,
    ) -> int:
        """Train for so many epochs, or so many optimiser steps.

        Args:
            module: What to train; its optimiser is made anew.
            batches: One epoch's batches each time it is iterated over.
            epochs: Passes (this or `steps`).
            steps: Optimiser steps.
            callbacks: For this fit only.
            accumulate: Batches whose gradients are added up for one optimiser step.

        Returns:
            Optimiser steps taken.
        """
        before = self.global_step
        self.fit_loop.max_epochs = -1 if epochs is None else self.current_epoch + epochs
        self.fit_loop.epoch_loop.max_steps = -1 if steps is None else before + steps
        self.callbacks = list(callbacks)
        self.accumulate_grad_batches = accumulate
        try:
            # The empty validation loader says that its absence is meant.
            self.fit(module, train_dataloaders=batches, val_dataloaders=())
        finally:
            self.callbacks = []
            self.accumulate_grad_batches = 1
            self.strategy.optimizers = []
        return self.global_step - before


def trainer_of(module: pl.LightningModule, device: torch.device, precision: Precision) -> SiteTrainer:
    """Return the Trainer that a module kept from its last round if it fits, else a new one.

    A Trainer for ``16-mixed`` is never used again: its loss scale would carry over, and a round would
    depend on the rounds before.
    """
    kept = module.trainer if module.__dict__.get("_trainer") is not None else None
    if precision != "16-mixed" and isinstance(kept, SiteTrainer) and kept.made_for == (device, precision):
        return kept
    return SiteTrainer(device, precision)
