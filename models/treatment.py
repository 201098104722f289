r"""Which of two treatments a patient is better off with: T-, X- and single learners, trained side by side.

Each learner is trained together with a number of members: the same networks on resampled patients. A patient's weight
for a member is drawn from a Poisson distribution of mean 1 by a hash of his own row, so it is the same in every pass
and round, needs no list, and no site tells anything of it (the online bootstrap: Oza, Russell 2001). The spread of the
members is the standard error of a patient's benefit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from models.base import Objective, OptimizerSettings, output_layer, seeded
from models.classification import Batch, Classifier
from models.network_arguments import LinearArguments, LogisticRegressionArguments, MLPArguments, check_arguments
from models.tabular import TableArchitecture, TableInput

Learner = Literal["t", "x", "single"]
Z95 = 1.959963984540054
OUTPUTS = 5  # expected outcome in each arm, benefit, and the ends of its interval
SAME_PACE = 1 / 8  # a square's curvature is 2, cross-entropy's 1/4 at most: so one learning rate suits both
_MOST = 8  # resampled more often than that is a patient once in a million draws


@dataclass(frozen=True)
class TreatmentDesign:
    """How benefits are learned.

    Attributes:
        learner: ``t``, ``x`` or ``single``.
        members: Models on resampled patients, beside the model itself.
        better: The class that is wanted, 0 or 1.
        randomised: Whether chance alone decided about the arm.
        propensity: Probability of the second arm, where it is known.
    """

    learner: Learner = "t"
    members: int = 30
    better: int = 0
    randomised: bool = True
    propensity: float | None = None


class StackedLinear(nn.Module):
    """Linear layers side by side: [G, N, I] to [G, N, O], each of the G with weights of its own.

    Args:
        count: G.
        inputs: I.
        outputs: O.
        zeros: Start from zeros, where the loss has one lowest point; else as `torch.nn.Linear` does.
    """

    def __init__(self, count: int, inputs: int, outputs: int, *, zeros: bool) -> None:
        super().__init__()
        bound = 0.0 if zeros else 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(count, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [G, N, O]."""
        return torch.baddbmm(self.bias, inputs, self.weight)


class StackedNorm(nn.BatchNorm1d):
    """BatchNorm side by side: what FedBN keeps at a site; [G, N, W] to the same."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [G, N, W]."""
        groups, _, width = inputs.shape
        flat = super().forward(inputs.permute(1, 0, 2).reshape(-1, groups * width))
        return flat.reshape(-1, groups, width).permute(1, 0, 2)


class Stack(nn.Module):
    """Networks of one shape side by side, each with weights of its own.

    Args:
        architecture: ``LogisticRegression`` (one linear layer each) or ``MLP``.
        count: How many, G.
        inputs: Number of inputs, D.
        outputs: Number of outputs, K.

    Raises:
        ValueError: If an argument is wrong, or the network is none for tables.
    """

    def __init__(self, architecture: TableArchitecture, count: int, inputs: int, outputs: int = 1) -> None:
        super().__init__()
        chosen = check_arguments(architecture.name, architecture.arguments)
        linear = isinstance(chosen, LogisticRegressionArguments | LinearArguments)
        if not (linear or isinstance(chosen, MLPArguments)):
            raise ValueError(f"{architecture.name} takes images; a table needs LogisticRegression or MLP")
        self.count = count
        layers: list[nn.Module] = []
        if isinstance(chosen, MLPArguments):
            for before, width in zip((inputs, *chosen.widths), chosen.widths, strict=False):
                layers.append(StackedLinear(count, before, width, zeros=False))
                layers += [StackedNorm(count * width)] if chosen.norm == "batch" else []
                layers += [nn.ReLU(), nn.Dropout(chosen.dropout)]
            inputs = chosen.widths[-1]
        last = output_layer(StackedLinear(count, inputs, outputs, zeros=linear))
        self.layers = nn.Sequential(*layers, last)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [G, N, K] of inputs [N, D], the same for all of them."""
        return self.layers(inputs.unsqueeze(0).expand(self.count, -1, -1))  # type: ignore[no-any-return]


class Assignment(nn.Module):
    """The probability of the second arm, given the inputs: known, one number, or a logistic regression.

    Args:
        inputs: Number of inputs.
        design: Which of the three.
    """

    def __init__(self, inputs: int, design: TreatmentDesign) -> None:
        super().__init__()
        self.known = design.propensity
        self.intercept = None if self.known else nn.Parameter(torch.zeros(1))
        self.linear = None if design.randomised else nn.Linear(inputs, 1, bias=False)
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [N]."""
        if self.intercept is None:
            assert self.known is not None
            return torch.full_like(inputs[:, 0], math.log(self.known / (1 - self.known)))
        logits = self.intercept + torch.zeros_like(inputs[:, 0])
        return logits if self.linear is None else logits + self.linear(inputs).squeeze(1)


class EffectModels(nn.Module):
    """The second stage of an X-learner, whatever the outcome is.

    Attributes:
        fits: The model itself and its members, 1 + M.
        effect: Models of the effect, by the arm they are fitted on; None of another learner.
        assignment: The chance of the second arm.
    """

    fits: int
    effect: Stack | None
    assignment: Assignment

    def effects(self, inputs: Tensor) -> Tensor:
        """Return what the models of the effect say, [2, 1 + M, N], by the arm they were fitted on."""
        assert self.effect is not None
        found: Tensor = self.effect(inputs).reshape(2, self.fits, -1)
        return found

    def mixed_effect(self, inputs: Tensor) -> Tensor:
        """Return both arms' effects, each weighed by the chance of the other arm's, in [-1, 1]: [1 + M, N]."""
        given, (first, second) = torch.sigmoid(self.assignment(inputs)), self.effects(inputs).unbind(0)
        return (given * first + (1 - given) * second).clamp(-1, 1)


class TreatmentNetwork(EffectModels):
    r"""Outcome in either arm, and what follows from it; member 0 is the model itself, the others its resamplings.

    With :math:`\mu_a(x)` the chance of the second class in arm :math:`a` and :math:`e(x)` that of the second arm:

    - ``t``: :math:`\mu_0, \mu_1` are networks of their own, :math:`\tau = \mu_1 - \mu_0`;
    - ``x``: besides these :math:`\tau_0, \tau_1`, and :math:`\tau = e\,\tau_0 + (1 - e)\,\tau_1`;
    - ``single``: one network, :math:`\mu_a(x) = \mu(x, a)`.

    The benefit is :math:`\tau` where the second class is wanted, else :math:`-\tau`.

    Args:
        architecture: What each network is.
        inputs: Number of inputs, D.
        design: The learner.

    Reference:
        Kuenzel, Sekhon, Bickel, Yu (2019), Metalearners for estimating heterogeneous treatment effects using machine
        learning, PNAS 116, algorithms 1 to 3 (there the single learner is S).
    """

    def __init__(self, architecture: TableArchitecture, inputs: int, design: TreatmentDesign) -> None:
        super().__init__()
        self.design, self.fits = design, design.members + 1
        single = design.learner == "single"
        self.outcome = Stack(architecture, self.fits * (1 if single else 2), inputs + single)
        self.effect = Stack(architecture, self.fits * 2, inputs) if design.learner == "x" else None
        self.assignment = Assignment(inputs, design)

    def outcomes(self, inputs: Tensor) -> Tensor:
        """Return logits [2, 1 + M, N] of the second class, in either arm, of inputs [N, D]."""
        if self.design.learner == "single":
            arms = [torch.full_like(inputs[:, :1], arm) for arm in (-0.5, 0.5)]
            return torch.stack([self.outcome(torch.cat([inputs, arm], dim=1)).squeeze(2) for arm in arms])
        found: Tensor = self.outcome(inputs).reshape(2, self.fits, -1)
        return found

    def benefits(self, inputs: Tensor) -> Tensor:
        """Return the benefit of the second arm by every fit, [1 + M, N], in [-1, 1]."""
        if self.effect is None:
            chance = torch.sigmoid(self.outcomes(inputs))
            effect = chance[1] - chance[0]
        else:
            effect = self.mixed_effect(inputs)
        return effect if self.design.better == 1 else -effect

    def recommend(self, inputs: Tensor) -> Tensor:
        """Return [N, 5]: chance of the second class in either arm, benefit, and the ends of its 95 % interval."""
        chance, benefits = torch.sigmoid(self.outcomes(inputs))[:, 0], self.benefits(inputs)
        spread = Z95 * benefits[1:].std(dim=0)
        ends = (benefits[0] - spread).clamp(min=-1), (benefits[0] + spread).clamp(max=1)
        return torch.stack([*chance, benefits[0], *ends], dim=1)


class TreatmentModel(Classifier):
    r"""Recommends one of two treatments to a patient: networks, losses and optimiser.

    Rows are [N, F] where only a recommendation is asked for, and [N, F + 1], the arm (0 or 1) last, to train and to
    judge. Each outcome network learns from the patients of its arm by cross-entropy. An X-learner's effect networks
    learn by squared error from :math:`y - \mu_0(x)` of the second arm's patients and :math:`\mu_1(x) - y` of the
    first's, where :math:`\mu` is what the round began with: the outcome models of all sites, not yet those of one.
    The assignment learns the arm by cross-entropy. All are trained at once; each has the gradient that it would have
    alone.

    Args:
        architecture: What each network is, and the columns it takes.
        objective: A binary one.
        optimizer: What they are trained with.
        design: The learner.
        seed: Seed of the first weights.

    Raises:
        ValueError: If the network's arguments are wrong, or the objective is not binary.
    """

    network: TreatmentNetwork

    def __init__(
        self,
        architecture: TableArchitecture,
        *,
        objective: Objective,
        optimizer: OptimizerSettings,
        design: TreatmentDesign,
        seed: int,
    ) -> None:
        super().__init__(objective, optimizer)
        if objective.kind != "binary" or objective.imbalance != "none":
            raise ValueError("a treatment model needs a binary objective, without handling of unequal classes")
        self.architecture, self.design = architecture, design
        self.features = len(architecture.categories)
        self.inputs = TableInput(architecture)
        self.network = seeded(seed, lambda: TreatmentNetwork(architecture, self.inputs.width, design))
        self._began: list[TreatmentNetwork] = []  # in a list: no part of the module's own state

    @property
    def better(self) -> int:
        """The class that is wanted for a patient."""
        return self.design.better

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [N, 1] of the second class in the arm that each patient was given; rows [N, F + 1]."""
        inputs, arm = self._divided(rows)
        return of_arm(self.network.outcomes(inputs), arm)[0].unsqueeze(1)

    def recommend(self, rows: Tensor) -> Tensor:
        """Return [N, 5] of rows [N, F] or [N, F + 1]; see `TreatmentNetwork.recommend`."""
        return self.network.recommend(self.inputs(rows[:, : self.features]))

    def benefit(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a judgement needs of rows [N, F + 1]: benefit, chance of the second arm, and the arm; each [N].

        The benefit is the model's own, without its members.
        """
        inputs, arm = self._divided(rows)
        return self.network.benefits(inputs)[0], torch.sigmoid(self.network.assignment(inputs)), arm

    def on_train_start(self) -> None:
        """Keep the outcome models that a round begins with."""
        if self.design.learner == "x":
            self._began = [copy.deepcopy(self.network).eval().requires_grad_(False)]

    def on_train_end(self) -> None:
        """Let go of them."""
        self._began = []

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch; its value is that of the model itself, its gradient that of every fit."""
        rows, labels = batch
        inputs, arm = self._divided(rows)
        weights = resampled(torch.cat([rows, labels.reshape(-1, 1).to(rows.dtype)], dim=1), self.design.members)
        truth = labels.to(inputs.dtype).expand(self.network.fits, -1)
        logits = of_arm(self.network.outcomes(inputs), arm)
        losses = (weights * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")).mean(dim=1)
        others = losses[1:].sum()
        if self.design.learner == "x":
            gap = self._pseudo_effects(inputs, arm, truth) - of_arm(self.network.effects(inputs), arm)
            others = others + SAME_PACE * (weights * gap.square()).mean(dim=1).sum()
        if self.design.propensity is None:
            given = F.binary_cross_entropy_with_logits(self.network.assignment(inputs), arm.to(inputs.dtype))
            others = others + given
        return losses[0] + (others - others.detach())

    def _divided(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs [N, D], and which patients [N] were given the second arm."""
        return self.inputs(rows[:, : self.features]), rows[:, self.features] > 0.5

    @torch.no_grad()
    def _pseudo_effects(self, inputs: Tensor, arm: Tensor, truth: Tensor) -> Tensor:
        """Return, by fit and patient [1 + M, N], the outcome less what the other arm's model expected of him."""
        network = self._began[0] if self._began else self.network
        chance = torch.sigmoid(network.outcomes(inputs))
        return torch.where(arm, truth - chance[0], chance[1] - truth)


def resampled(rows: Tensor, members: int) -> Tensor:
    """Return how often each patient counts for each fit: once for the first, for the others Poisson of mean 1.

    Args:
        rows: float32 [N, C]; all that is known of each patient. Equal rows count equally often.
        members: M.

    Returns:
        float32 [1 + M, N], a function of each row alone.

    >>> resampled(torch.arange(6.0).reshape(3, 2), 2).shape
    torch.Size([3, 3])
    """
    bits = torch.nan_to_num(rows.float(), nan=-1e30).contiguous().view(torch.int32).long()
    state = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for column in bits.unbind(dim=1):
        state = _mixed(state ^ column)
    numbers = torch.arange(1, members + 1, device=rows.device).unsqueeze(1)
    uniform = (_mixed(state.unsqueeze(0) + numbers * _ODD) & (2**53 - 1)).double() / 2**53
    counts = torch.bucketize(uniform, torch.tensor(_POISSON, dtype=torch.float64, device=rows.device), right=True)
    return torch.cat([torch.ones(1, len(rows), device=rows.device), counts.float()])


def _signed(number: int) -> int:
    """Return a number of 64 bits as torch has it."""
    return number - 2**64 if number >= 2**63 else number


_ODD = _signed(0x9E3779B97F4A7C15)
_MIXERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))
_POISSON: Sequence[float] = [sum(math.exp(-1) / math.factorial(k) for k in range(n + 1)) for n in range(_MOST)]


def _mixed(state: Tensor) -> Tensor:
    """Mix 64 bits (Steele, Lea, Flood 2014, SplitMix); torch's shift keeps the sign, so the mask takes it off."""
    for multiplier, shift in zip(_MIXERS, (30, 27), strict=True):
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * multiplier
    return state ^ ((state >> 31) & (2**33 - 1))


def of_arm(found: Tensor, arm: Tensor) -> Tensor:
    """Return, of what was found for either arm [2, G, N, ...], that of each patient's own [G, N, ...].

    >>> of_arm(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]), torch.tensor([False, True]))
    tensor([[1., 4.]])
    """
    return torch.where(arm.reshape(1, -1, *(1 for _ in found.shape[3:])), found[1], found[0])
