"""A site's part of a baseline hazard, at the weights that came to it.

With gradients the weights that leave are others: the baseline of a version is that of the weights its round began with,
which are the same where the training has converged. With Newton's method it is that of the version itself.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor

from components.training.local import SiteBatches, whole_site


@runtime_checkable
class KeepsBaseline(Protocol):
    """A module with a baseline hazard; `models.survival.SurvivalModel` is one."""

    def measure_baseline(self, rows: Tensor, labels: Tensor, smallest_cell: int) -> None:
        """Keep a site's part of it."""
        ...


def measure_baseline(module: pl.LightningModule, data: SiteBatches, smallest_cell: int) -> None:
    """Put a site's part of the baseline hazard into a module; nothing for one that keeps none.

    Args:
        module: With the weights of the round; left on its device.
        data: The site's data.
        smallest_cell: Fewest patients behind a number.

    Raises:
        DataError: If the site has no training rows.
    """
    if not isinstance(module, KeepsBaseline):
        return
    rows, labels = whole_site(data, seed=0)
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    module.measure_baseline(rows.to(device), labels.to(device), smallest_cell)
