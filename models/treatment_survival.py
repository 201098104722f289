r"""Which of two treatments a patient lives longer with: survival by arm (T-, X-learner), and DeepSurv's recommender.

The benefit is a difference of restricted mean survival times, :math:`\int_0^h S_1(t|x) - S_0(t|x)\,dt` until the last
horizon of the task, in its unit. Members are fitted to resampled patients as in `models.treatment`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from models.base import OptimizerSettings, seeded
from models.censoring import Censoring, censoring_of, lived
from models.survival import Baseline, SurvivalObjective, joined_cells
from models.survival_losses import hazard_losses
from models.tabular import TableArchitecture, TableInput
from models.treatment import SAME_PACE, Z95, Assignment, EffectModels, Stack, TreatmentDesign, of_arm, resampled

Batch = tuple[Tensor, Tensor]

_FIRST_LOGIT = -3.0  # as of `models.survival`
_STEEPEST = 30.0


def stacked_cox_losses(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    r"""Return each patient's part of weighted partial likelihoods, of several fits at once; Breslow's ties.

    .. math:: w_i \delta_i \Big(\log \sum_{j: t_j \ge t_i} w_j e^{\eta_j} - \eta_i\Big)

    Args:
        scores: [G, N], logarithms of relative hazards.
        labels: [N, 2] times and events.
        weights: [G, N], from 0 on; who has 0 is in no risk set.

    Returns:
        [G, N].

    References:
        Cox (1972), J R Stat Soc B 34; Breslow (1974), Biometrics 30.

    >>> labels = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    >>> stacked_cox_losses(torch.zeros(1, 3), labels, torch.ones(1, 3)).exp()
    tensor([[3., 2., 1.]])
    """
    order = torch.argsort(labels[:, 0], descending=True, stable=True)
    score, weight = scores[:, order], weights[:, order]
    time, event = labels[order, 0], labels[order, 1]
    largest = score.detach().amax(dim=1, keepdim=True)
    _, place, sizes = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    last = (sizes.cumsum(0) - 1)[place]  # the last of each time: all of one time are at risk together
    at_risk = (weight * (score - largest).exp()).cumsum(dim=1)[:, last]
    counted = (weight * event) > 0
    # log of what is not counted could be one of 0, whose gradient is none
    logarithm = torch.where(counted, at_risk, 1.0).log()
    losses = torch.where(counted, weight * (logarithm + largest - score), 0.0)
    return torch.zeros_like(losses).index_copy(1, order, losses)


class StackedBaseline(nn.Module):
    """Baseline hazards of several Cox fits, by arm: piecewise constant, as of `models.survival.Baseline`.

    Args:
        arms: 1 (both arms have one baseline) or 2.
        fits: Fits of each, G.
        cells: Cells of the grid, J.
    """

    events: Tensor
    exposure: Tensor

    def __init__(self, arms: int, fits: int, cells: int) -> None:
        super().__init__()
        self.register_buffer("events", torch.zeros(arms, 1, cells))
        self.register_buffer("exposure", torch.zeros(arms, fits, cells))

    def hazards(self, scores: Tensor) -> Tensor:
        """Return cumulative hazards [2, G, N, J] of scores [2, G, N]."""
        hazard = torch.where(self.exposure > 0, self.events / self.exposure.clamp(min=1e-12), 0.0)
        return hazard.cumsum(2).unsqueeze(2) * scores.clamp(-_STEEPEST, _STEEPEST).exp().unsqueeze(3)

    @torch.no_grad()
    def measure(self, scores: Tensor, arm: Tensor, labels: Tensor, edges: Sequence[float], smallest_cell: int) -> None:
        """Keep a site's events and exposures by cell, as means over its rows.

        Args:
            scores: [G, N], of each patient's own arm.
            arm: [N], which of them were given the second.
            labels: [N, 2] times and events.
            edges: Upper edges of the cells, J of them.
            smallest_cell: Fewest patients behind a number; see `models.survival.joined_cells`.
        """
        upper = torch.tensor(edges, dtype=torch.float64, device=scores.device)
        lower = F.pad(upper[:-1], (1, 0))
        time, event = labels[:, :1].double(), labels[:, 1:].double()
        inside = (time > lower) & (time <= upper) | (time <= 0) & (lower == 0)
        spent = ((time - lower) / (upper - lower)).clamp(0, 1)
        weight = scores.double().clamp(-_STEEPEST, _STEEPEST).exp()
        for number in range(len(self.events)):
            mine = torch.ones_like(arm) if len(self.events) == 1 else arm == bool(number)
            died, at_risk = (event * inside)[mine].sum(0), (time > lower)[mine].sum(0)
            for fit, exposed in enumerate(weight[:, mine] @ spent[mine]):
                told, exposure = joined_cells(died, exposed, at_risk, smallest_cell)
                self.exposure[number, fit] = exposure / len(labels)
            self.events[number, 0] = told / len(labels)


class SurvivalTreatmentNetwork(EffectModels):
    r"""Survival in either arm, by every fit, and what follows from it; member 0 is the model itself.

    ``t``: networks of their own for each arm, with ``cox`` a baseline hazard of its own, too. ``single``: one network
    with the arm among its inputs; with ``cox`` this is DeepSurv, whose recommender compares
    :math:`\eta(x, 1) - \eta(x, 0)` with 0: the sign of the benefit here is the opposite of it. ``x``: besides the
    networks of ``t``, effects :math:`\tau_0, \tau_1` on restricted mean survival, and the benefit is
    :math:`e\,\tau_0 + (1 - e)\,\tau_1`, where :math:`e` is the chance of the second arm.

    Args:
        architecture: What each network is: ``Linear`` or ``MLP``.
        inputs: Number of inputs, D.
        design: The learner.
        objective: The grid, the horizons and the likelihood.

    References:
        Katzman et al. (2018), DeepSurv, BMC Medical Research Methodology 18:24, section "Treatment recommender".
        Xu, Ignatiadis, Sverdrup, Fleming, Wager, Shah (2023), Treatment heterogeneity with survival outcomes, in:
        Handbook of Matching and Weighting Adjustments for Causal Inference (arXiv 2207.07758): the X-learner.
    """

    def __init__(
        self, architecture: TableArchitecture, inputs: int, design: TreatmentDesign, objective: SurvivalObjective
    ) -> None:
        super().__init__()
        self.design, self.objective, self.fits = design, objective, design.members + 1
        single = design.learner == "single"
        self.outcome = Stack(architecture, self.fits * (1 if single else 2), inputs + single, objective.scores)
        if objective.loss == "hazards":
            last = self.outcome.layers[-1]
            nn.init.constant_(last.bias, _FIRST_LOGIT)  # type: ignore[arg-type]
        self.effect = Stack(architecture, self.fits * 2, inputs) if design.learner == "x" else None
        cells = len(objective.edges)
        self.baseline = StackedBaseline(1 if single else 2, self.fits, cells) if objective.loss == "cox" else None
        self.assignment = Assignment(inputs, design)

    def scores(self, inputs: Tensor) -> Tensor:
        """Return scores [2, 1 + M, N, K] in either arm, of inputs [N, D]; K is 1 for ``cox``, else J.

        Those of ``cox`` are less the mean patient's once they are used: see `models.survival.Pinned`.
        """
        pinned = self.baseline is not None and not self.training
        if self.design.learner == "single":
            arms = [torch.full_like(inputs[:, :1], arm) for arm in (-0.5, 0.5)]
            both = torch.stack([self.outcome(torch.cat([inputs, arm], dim=1)) for arm in arms])
            return both - self.outcome(torch.zeros_like(torch.cat([inputs, arms[0]], dim=1)[:1])) if pinned else both
        found = self.outcome(inputs)
        found = found - self.outcome(torch.zeros_like(inputs[:1])) if pinned else found
        return found.reshape(2, self.fits, *found.shape[1:])  # type: ignore[no-any-return]

    def log_survival(self, inputs: Tensor) -> Tensor:
        """Return logarithms of the chance of no event until each edge of the grid, [2, 1 + M, N, J]."""
        scores = self.scores(inputs)
        if self.baseline is None:
            return -F.softplus(scores).cumsum(3)
        return -self.baseline.hazards(scores[..., 0])

    def mean_survival(self, inputs: Tensor) -> Tensor:
        """Return the restricted mean survival time until the last horizon, [2, 1 + M, N], in the task's unit."""
        last = self.objective.horizons[-1] + 1
        edges = torch.tensor([0.0, *self.objective.edges[:last]], device=inputs.device)
        survival = F.pad(self.log_survival(inputs)[..., :last].exp(), (1, 0), value=1.0)
        return torch.trapezoid(survival, edges, dim=3)

    @property
    def until(self) -> float:
        """The last horizon, in the task's unit."""
        return self.objective.edges[self.objective.horizons[-1]]

    def benefits(self, inputs: Tensor) -> Tensor:
        """Return the benefit of the second arm by every fit, [1 + M, N], in the task's unit."""
        if self.effect is None:
            means = self.mean_survival(inputs)
            return means[1] - means[0]
        return self.until * self.mixed_effect(inputs)

    def recommend(self, inputs: Tensor) -> Tensor:
        """Return [N, 5]: mean survival in either arm, benefit of the second, and the ends of its 95 % interval."""
        means, benefits, most = self.mean_survival(inputs), self.benefits(inputs), self.until
        spread = Z95 * benefits[1:].std(dim=0)
        ends = (benefits[0] - spread).clamp(min=-most), (benefits[0] + spread).clamp(max=most)
        return torch.stack([*means[:, 0], benefits[0], *ends], dim=1)


class SurvivalTreatmentModel(pl.LightningModule):
    r"""Recommends the treatment that a patient is expected to live longer with.

    Rows are [N, F] where only a recommendation is asked for, and [N, F + 1], the arm (0 or 1) last, to train and to
    judge; labels are [N, 2], times and events. Judged as a survival model, it says the hazards of each patient's own
    arm in each cell of the grid.

    An X-learner's effect networks learn by squared error from :math:`\min(T, h) - m_0(x)` of the second arm's patients
    and :math:`m_1(x) - \min(T, h)` of the first's, both as parts of :math:`h`, where :math:`m` is the mean survival by
    what the round began with, the models and the baseline of all sites. Who was censored before :math:`h` has no such
    difference; the others are weighted for them by the site's own curve of censoring: see `models.censoring`.

    Args:
        architecture: What each network is, and the columns it takes.
        objective: What is predicted.
        optimizer: What they are trained with.
        design: The learner.
        seed: Seed of the first weights.

    Raises:
        ValueError: If the network's arguments are wrong.
    """

    def __init__(
        self,
        architecture: TableArchitecture,
        *,
        objective: SurvivalObjective,
        optimizer: OptimizerSettings,
        design: TreatmentDesign,
        seed: int,
    ) -> None:
        super().__init__()
        self.architecture, self.objective, self.design = architecture, objective, design
        self.optimizer_settings, self.features = optimizer, len(architecture.categories)
        self.inputs = TableInput(architecture)
        width = self.inputs.width
        self.network = seeded(seed, lambda: SurvivalTreatmentNetwork(architecture, width, design, objective))
        told = SurvivalObjective(objective.edges, objective.horizons, "hazards")
        self.baseline = Baseline(told)  # of what `forward` says
        self._began: list[SurvivalTreatmentNetwork] = []  # in a list: no part of the module's own state
        self._censoring: Censoring | None = None

    @property
    def better(self) -> int:
        """The class that is wanted for a patient: no event."""
        return 0

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [N, J] of the hazard in each cell, in the arm that each patient was given."""
        inputs, arm = self._divided(rows)
        logarithms = of_arm(self.network.log_survival(inputs), arm)[0]
        cells = F.pad(logarithms, (1, 0)).diff(dim=1).clamp(max=-1e-7)  # log(1 - hazard) of each cell
        return torch.log(-torch.expm1(cells)) - cells

    def recommend(self, rows: Tensor) -> Tensor:
        """Return [N, 5] of rows [N, F] or [N, F + 1]; see `SurvivalTreatmentNetwork.recommend`."""
        return self.network.recommend(self.inputs(rows[:, : self.features]))

    def benefit(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the benefit as a part of the last horizon, the chance of the second arm, and the arm; each [N]."""
        inputs, arm = self._divided(rows)
        return (
            self.network.benefits(inputs)[0] / self.network.until,
            torch.sigmoid(self.network.assignment(inputs)),
            arm,
        )

    def predictions(self, scores: Tensor) -> Tensor:
        """See `models.survival.SurvivalModel.predictions`."""
        return self.baseline(scores)  # type: ignore[no-any-return]

    def item_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return each patient's negative log-likelihood [N] of what `forward` says."""
        return hazard_losses(scores, labels, self.objective.edges)

    def measure_baseline(self, rows: Tensor, labels: Tensor, smallest_cell: int) -> None:
        """Keep a site's part of the baseline hazards at the present weights; nothing for ``hazards``.

        For an X-learner a round begins here: what it began with is kept until it ends, with the curve of censoring.
        """
        if self.design.learner == "x":
            self._began = [copy.deepcopy(self.network).eval().requires_grad_(False)]
            self._censoring = censoring_of(labels)
        if self.network.baseline is None:
            return
        before = self.training
        self.eval()
        with torch.no_grad():
            inputs, arm = self._divided(rows)
            scores = of_arm(self.network.scores(inputs)[..., 0], arm)
            self.network.baseline.measure(scores, arm, labels, self.objective.edges, smallest_cell)
        self.train(before)

    def on_train_start(self) -> None:
        """Take what the round began with to where the training is."""
        self._began = [network.to(self.device) for network in self._began]

    def on_train_end(self) -> None:
        """Let go of it."""
        self._began, self._censoring = [], None

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch; its value is that of the model itself, its gradient that of every fit."""
        rows, labels = batch
        inputs, arm = self._divided(rows)
        weights = resampled(torch.cat([rows, labels.to(rows.dtype)], dim=1), self.design.members)
        scores = of_arm(self.network.scores(inputs), arm)
        losses = (self._losses(scores, labels, arm, weights)).mean(dim=1)
        others = losses[1:].sum()
        if self.design.learner == "x":
            effect, known = self._pseudo_effects(inputs, arm, labels)
            gap = effect - of_arm(self.network.effects(inputs), arm)
            others = others + SAME_PACE * (weights * known * gap.square()).mean(dim=1).sum()
        if self.design.propensity is None:
            given = F.binary_cross_entropy_with_logits(self.network.assignment(inputs), arm.to(inputs.dtype))
            others = others + given
        return losses[0] + (others - others.detach())

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the loss of a batch, when the module is trained with a plain Lightning Trainer."""
        rows, labels = batch
        self.log("validation_loss", self.item_losses(self(rows), labels).mean(), batch_size=len(rows))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return a fresh optimiser."""
        return self.optimizer_settings.build(self.parameters())

    def _losses(self, scores: Tensor, labels: Tensor, arm: Tensor, weights: Tensor) -> Tensor:
        """Return each patient's loss by each fit, [1 + M, N], of scores [1 + M, N, K]."""
        if self.objective.loss == "hazards":
            fits, count, cells = scores.shape
            flat = scores.reshape(fits * count, cells)
            found = hazard_losses(flat, labels.repeat(fits, 1), self.objective.edges)
            return weights * found.reshape(fits, count)
        if self.design.learner == "single":
            return stacked_cox_losses(scores[..., 0], labels, weights)
        sides = [stacked_cox_losses(scores[..., 0], labels, weights * side) for side in (~arm, arm)]
        return sides[0] + sides[1]

    @torch.no_grad()
    def _pseudo_effects(self, inputs: Tensor, arm: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return by fit [1 + M, N] the time lived less what the other arm's model expected, and what it counts for."""
        network = self._began[0] if self._began else self.network
        part, known = lived(labels, network.until, self._censoring or censoring_of(labels))
        expected = network.mean_survival(inputs) / network.until
        return torch.where(arm, part - expected[0], expected[1] - part), known

    def _divided(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs [N, D], and which patients [N] were given the second arm."""
        return self.inputs(rows[:, : self.features]), rows[:, self.features] > 0.5
