"""Time until an event from a table: Cox regression, DeepSurv and discrete-time hazards in one Lightning module.

The module takes rows as they are in the table, and says a risk score and the chance of no event until each horizon;
what that needs beside the network, Cox's baseline hazard, is a part of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from models.base import OptimizerSettings, seeded
from models.network_arguments import LinearArguments, check_arguments
from models.survival_losses import Ties, cox_losses, hazard_losses
from models.tabular import NewtonLayer, TableArchitecture, TableInput, build_perceptron

Batch = tuple[Tensor, Tensor]

STEEPEST = 20.0  # a coefficient of a scaled input beyond it is a hazard ratio of half a milliard: there is no maximum
_FIRST_LOGIT = -3.0  # hazards of 5 % in each cell: a half in each, as of zeros, is far from any table


@dataclass(frozen=True)
class SurvivalObjective:
    """What is predicted, until when, by which likelihood.

    Attributes:
        edges: Upper edges of the cells of time, rising, in the task's unit, J of them.
        horizons: Places of the times of prediction among them, H of them.
        loss: ``cox`` or ``hazards``.
        ties: For ``cox``: how events of one time are counted.
    """

    edges: Sequence[float]
    horizons: Sequence[int]
    loss: Literal["cox", "hazards"] = "cox"
    ties: Ties = "efron"

    def __post_init__(self) -> None:
        if self.loss not in ("cox", "hazards") or self.ties not in ("efron", "breslow"):
            raise ValueError(f"loss is cox or hazards, ties efron or breslow, given {self.loss!r}, {self.ties!r}")
        if not self.horizons or not all(0 <= place < len(self.edges) for place in self.horizons):
            raise ValueError(f"horizons must be places of the {len(self.edges)} cells, given {list(self.horizons)}")

    @property
    def scores(self) -> int:
        """Number of outputs of the network: 1 of ``cox``, one for each cell of ``hazards``."""
        return 1 if self.loss == "cox" else len(self.edges)


class Baseline(nn.Module):
    r"""Scores of a network to survival; for ``cox`` with the baseline hazard of each cell, :math:`d_j / E_j`.

    Events :math:`d_j` and exposures :math:`E_j = \sum_i e^{\eta_i}\,t_{ij}` (the part of cell :math:`j` that a patient
    was observed in) are kept as means over rows, so that the mean of sites' values, weighted by rows, is that of all
    rows in one place. It is the maximum of the likelihood with a hazard constant in each cell, given the scores;
    Breslow's estimator as cells shrink. A cell in which nobody is told of has hazard 0.

    Args:
        objective: The grid, and the loss.

    Reference:
        Breslow (1972), discussion of Cox, J R Stat Soc B 34.
    """

    events: Tensor
    exposure: Tensor

    def __init__(self, objective: SurvivalObjective) -> None:
        super().__init__()
        self.objective = objective
        if objective.loss == "cox":
            self.register_buffer("events", torch.zeros(len(objective.edges)))
            self.register_buffer("exposure", torch.zeros(len(objective.edges)))

    def survival(self, scores: Tensor) -> Tensor:
        """Return the chance [N, J] of no event until each edge, of scores [N, 1] or [N, J]."""
        if self.objective.loss == "hazards":
            return torch.cumprod(torch.sigmoid(-scores), dim=1)
        hazard = torch.where(self.exposure > 0, self.events / self.exposure.clamp(min=1e-12), 0.0)
        return torch.exp(-hazard.cumsum(0) * scores.clamp(-30, 30).exp())

    def forward(self, scores: Tensor) -> Tensor:
        r"""Return [N, 1 + H]: the risk score, and the chance of no event until each horizon.

        The risk score is the logarithm of the relative hazard (``cox``), or of the cumulative hazard until the last
        horizon (``hazards``).
        """
        chances = self.survival(scores)[:, list(self.objective.horizons)]
        if self.objective.loss == "cox":
            return torch.cat([scores, chances], dim=1)
        certain = chances[:, -1:].clamp(1e-7, 1 - 1e-7)
        return torch.cat([torch.log(-torch.log(certain)), chances], dim=1)

    @torch.no_grad()
    def measure(self, scores: Tensor, labels: Tensor, smallest_cell: int) -> None:
        """Keep a site's events and exposures by cell, as means over its rows.

        Args:
            scores: [N, 1].
            labels: [N, 2] times and events.
            smallest_cell: Fewest patients behind a number; see `joined_cells`.
        """
        upper = torch.tensor(self.objective.edges, dtype=torch.float64, device=scores.device)
        lower = nn.functional.pad(upper[:-1], (1, 0))
        time, event = labels[:, :1].double(), labels[:, 1:].double()
        inside = (time > lower) & (time <= upper) | (time <= 0) & (lower == 0)
        died = (event * inside).sum(0)
        spent = ((time - lower) / (upper - lower)).clamp(0, 1)
        exposed = (scores.double().clamp(-30, 30).exp() * spent).sum(0)
        at_risk = (time > lower).sum(0)
        died, exposed = joined_cells(died, exposed, at_risk, smallest_cell)
        self.events.copy_(died / len(labels))
        self.exposure.copy_(exposed / len(labels))


def joined_cells(events: Tensor, exposure: Tensor, at_risk: Tensor, smallest: int) -> tuple[Tensor, Tensor]:
    """Spread events and exposures evenly over runs of cells, each with enough events.

    Args:
        events: [J] events of each cell.
        exposure: [J] exposures.
        at_risk: [J] patients observed at the begin of each cell.
        smallest: Fewest patients behind a number.

    Guarantees:
        Nothing is told of the cells that fewer than `smallest` patients entered. Of the others, what can be told from
        the result are the sums over runs of cells with at least `smallest` events each, or over all of them together
        where there are fewer events. With `smallest` 1 nothing is changed.

    >>> joined_cells(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([4.0, 2.0, 1.0]), torch.tensor([4, 2, 1]), 2)
    (tensor([1.5000, 1.5000, 0.0000]), tensor([3., 3., 0.]))
    """
    told = int((at_risk >= smallest).sum())
    joined = torch.zeros_like(events), torch.zeros_like(exposure)
    if smallest == 1:
        told = len(events)
    ends, seen = [], 0.0
    for place in range(told):
        seen += float(events[place])
        if smallest == 1 or seen >= smallest:
            ends.append(place + 1)
            seen = 0.0
    if told and (not ends or ends[-1] != told):
        ends[-1:] = [told]
    start = 0
    for end in ends:
        for whole, parts in zip((events, exposure), joined, strict=True):
            parts[start:end] = whole[start:end].sum() / (end - start)
        start = end
    return joined


class Pinned(nn.Module):
    """Scores less that of the mean patient (all inputs 0), once they are used.

    A partial likelihood does not know the level of scores, so it would wander from round to round, and a baseline
    hazard that is measured at one version would not fit the next. While it trains, nothing is taken off.

    Args:
        scores: Maps [N, D] to [N, 1].
    """

    def __init__(self, scores: nn.Module) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [N, 1]."""
        found: Tensor = self.scores(inputs)
        return found if self.training else found - self.scores(torch.zeros_like(inputs[:1]))


class NewtonCox(NewtonLayer):
    r"""A linear score, with gradient and curvature of the site's partial likelihood, divided by its rows.

    Sites' values, averaged by rows, are those of the likelihood stratified by site. There is no intercept: it would
    cancel.

    Args:
        inputs: Number of inputs, D.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, bias=False)

    def measure(self, inputs: Tensor, labels: Tensor, ties: Ties) -> None:
        """Keep gradient and curvature at the present weights, over inputs [N, D] and labels [N, 2]."""
        rows, now = inputs.detach().double(), self.weight.detach()[0].double()

        def loss(weights: Tensor) -> Tensor:
            return cox_losses(rows @ weights, labels.double(), ties).sum() / len(rows)

        with torch.enable_grad():
            curvature = torch.autograd.functional.hessian(loss, now)  # type: ignore[no-untyped-call]
            now = now.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(now), now)
        with torch.no_grad():
            self.gradient.copy_(gradient)
            self.curvature.copy_(curvature)


class SurvivalModel(pl.LightningModule):
    """A network that predicts the time until an event from a patient's record, its loss and its optimiser.

    Args:
        architecture: The network (``Linear`` or ``MLP``) and the columns it takes. ``Linear`` with ``cox`` is Cox's
            regression, ``MLP`` with ``cox`` is DeepSurv, either with ``hazards`` the model of Gensheimer and
            Narasimhan.
        objective: What is predicted.
        optimizer: What it is trained with.
        seed: Seed of the first weights.

    Raises:
        ValueError: If the network's arguments are wrong.

    References:
        Katzman et al. (2018), DeepSurv, BMC Medical Research Methodology 18:24; Gensheimer, Narasimhan (2019), PeerJ
        7:e6257.
    """

    separated = "a feature orders the events without an error"

    def __init__(
        self, architecture: TableArchitecture, *, objective: SurvivalObjective, optimizer: OptimizerSettings, seed: int
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.objective = objective
        self.optimizer_settings = optimizer
        self.inputs = TableInput(architecture)
        self.network = seeded(seed, lambda: build_survival_network(architecture, self.inputs.width, objective))
        self.baseline = Baseline(objective)

    def forward(self, rows: Tensor) -> Tensor:
        """Return scores of rows [N, F], NaN where a value is missing: [N, 1] for ``cox``, logits [N, J] else."""
        return self.network(self.inputs(rows))  # type: ignore[no-any-return]

    def item_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return each item's part of the loss [N]; for ``cox`` its risk sets are among these items."""
        if self.objective.loss == "cox":
            return cox_losses(scores[:, 0], labels, self.objective.ties)
        return hazard_losses(scores, labels, self.objective.edges)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, divided by its items."""
        return self.item_losses(scores, labels).mean()

    def predictions(self, scores: Tensor) -> Tensor:
        """Return [N, 1 + H] of scores: the risk score, and the chance of no event until each horizon."""
        return self.baseline(scores)  # type: ignore[no-any-return]

    def survival(self, rows: Tensor) -> Tensor:
        """Return the chance [N, J] of no event until each edge of the grid, of rows [N, F]."""
        return self.baseline.survival(self(rows))

    def measure_baseline(self, rows: Tensor, labels: Tensor, smallest_cell: int) -> None:
        """Keep a site's part of the baseline hazard at the present weights; nothing for ``hazards``.

        Args:
            rows: [N, F], the site's training rows.
            labels: [N, 2].
            smallest_cell: Fewest patients behind a number.
        """
        if self.objective.loss == "hazards":
            return
        before = self.training
        self.eval()
        with torch.no_grad():
            self.baseline.measure(self(rows), labels, smallest_cell)
        self.train(before)

    def newton(self, rows: Tensor, labels: Tensor, ridge: float, lasso: float = 0.0) -> None:
        """Take the step of what was measured before, and measure again, on rows [N, F] and labels [N, 2].

        Raises:
            ValueError: If the network keeps no curvature, it cannot be inverted, or the coefficients grow without end.
        """
        if not isinstance(self.network, NewtonCox):
            raise ValueError("Newton steps need a linear score that keeps its curvature")
        self.network.take_step(ridge, lasso)
        if float(self.network.weight.detach().abs().max()) > STEEPEST:
            raise ValueError("the coefficients grow without end")
        with torch.no_grad():
            inputs = self.inputs(rows)
        self.network.measure(inputs, labels, self.objective.ties)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        rows, labels = batch
        return self.loss(self(rows), labels)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the loss of a batch, when the module is trained with a plain Lightning Trainer."""
        rows, labels = batch
        self.log("validation_loss", self.loss(self(rows), labels), batch_size=len(rows))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return a fresh optimiser."""
        return self.optimizer_settings.build(self.parameters())


def build_survival_network(architecture: TableArchitecture, inputs: int, objective: SurvivalObjective) -> nn.Module:
    """Build a network that maps [N, inputs] to scores; its first weights are drawn from torch's generator.

    Raises:
        ValueError: If an argument is unknown, mistyped or out of range, or there is no such network for survival.
    """
    chosen = check_arguments(architecture.name, architecture.arguments)
    if not isinstance(chosen, LinearArguments):
        network = build_perceptron(architecture, inputs, objective.scores)
        return Pinned(network) if objective.loss == "cox" else network
    if objective.loss == "cox":
        layer = NewtonCox(inputs) if architecture.curvature else nn.Linear(inputs, 1, bias=False)
    else:
        layer = nn.Linear(inputs, objective.scores)
        nn.init.constant_(layer.bias, _FIRST_LOGIT)
    nn.init.zeros_(layer.weight)
    return layer
