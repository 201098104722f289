r"""One site's half of an exact Newton step, of a logistic regression or of Cox's, over its own rows.

The weights that come to a site carry gradient and curvature, averaged over the rows of all sites (`FedAvg` averages
every entry). By event, in round :math:`t`:

- site: take the step :math:`w_t = w_{t-1} - (H_{t-1} + \lambda I)^{-1}(g_{t-1} + \lambda w_{t-1})`, the same at every
  site; measure its own :math:`g_t^k, H_t^k` at :math:`w_t`; send all three.
- coordinator: :math:`g_t = \sum_k \frac{n_k}{n} g_t^k`, :math:`H_t = \sum_k \frac{n_k}{n} H_t^k`; :math:`w_t` is
  the same everywhere.

So the rounds are the iterations of Newton's method on all rows in one place, and the first one only measures. With a
lasso the step is that of `models.elastic_net`, and the rounds end at the elastic net of all rows in one place.
"""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from torch import Tensor

from components.errors import RefusedError
from components.training.baseline import measure_baseline
from components.training.exchanged_entries import read_entries
from components.training.local import SiteBatches, SiteResult, whole_site
from components.weights import is_finite


@runtime_checkable
class TakesNewtonSteps(Protocol):
    """A module with a Newton step of its own: `models.tabular.RiskModel`, `models.survival.SurvivalModel`.

    Attributes:
        separated: What may be wrong where its loss has no lowest point, in words.
    """

    separated: str

    def newton(self, rows: Tensor, labels: Tensor, ridge: float, lasso: float = 0.0) -> None:
        """Take the step of what was measured before, and measure again."""
        ...

    def item_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each item, [N]."""
        ...


def newton_site(
    module: pl.LightningModule,
    data: SiteBatches,
    *,
    ridge: float,
    seed: int,
    lasso: float = 0.0,
    smallest_cell: int = 1,
) -> SiteResult:
    """Take the Newton step that the weights carry, and measure the next one on a site's own rows.

    Args:
        module: A `TakesNewtonSteps`, with the weights of the round.
        data: The site's data.
        ridge: Coefficient of the squared weights' penalty, half of it, intercept included.
        lasso: Coefficient of the absolute weights' penalty, without the intercept.
        seed: Of the order of the rows, which decides nothing but the last bits.
        smallest_cell: Fewest patients behind a number of a baseline hazard, if the module keeps one.

    Raises:
        DataError: If the site has no training rows.
        RefusedError: If the curvature of all sites' rows cannot be inverted, or something is not finite.
        ValueError: If the module takes no such steps.
    """
    started = time.perf_counter()
    if not isinstance(module, TakesNewtonSteps):
        raise ValueError(f"{type(module).__name__} takes no Newton steps")
    rows, labels = whole_site(data, seed)
    try:
        module.newton(rows, labels, ridge, lasso)
    except ValueError as error:
        raise RefusedError(
            f"{error}: {module.separated}, or one follows from the others. Leave it "
            "out, or set local.optimizer.weight_decay above 0"
        ) from None
    measure_baseline(module, data, smallest_cell)
    with torch.no_grad():
        loss_sum = float(module.item_losses(module(rows), labels).double().sum())
    weights = read_entries(module)
    if not all(is_finite(tensor) for tensor in weights.values()):
        raise RefusedError("a Newton step is not finite; set local.optimizer.weight_decay above 0")
    return SiteResult(weights, len(rows), steps=1, loss_sum=loss_sum, seconds=time.perf_counter() - started)
