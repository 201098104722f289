"""FedProx's site half: a pull towards the weights the round started from."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer


class ProximalCorrection(pl.Callback):
    r"""Add :math:`\mu (w - w^t)` to the gradients before each optimiser step.

    This is the gradient of FedProx's proximal term :math:`\frac{\mu}{2} \lVert w - w^t \rVert^2`, with
    :math:`w^t` the weights at the start of the round. As a correction it needs no second pass through the
    graph, and leaves the reported training loss that of the data alone. Under mixed precision the
    gradients are already unscaled when Lightning calls this hook.

    Not for use with DP-SGD: Opacus overwrites gradients after this hook.

    Args:
        weight: :math:`\mu`, 0 or more; 0 is FedAvg.

    Reference:
        Li et al. 2020, "Federated Optimization in Heterogeneous Networks", algorithm 2.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"proximal_weight must be 0 or more, given {weight}")
        self.weight = weight
        self._trained: list[Tensor] = []
        self._base: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights the round starts from, on the device they are trained on."""
        self._trained = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        self._base = [parameter.detach().clone() for parameter in self._trained]

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Correct the gradients; a parameter without one was not used and is where it started."""
        for parameter, base in zip(self._trained, self._base, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - base, alpha=self.weight)
