"""Risk from a table: one Lightning module for binary, multiclass and multilabel outcomes of patients.

The module takes rows as they are in the table (NaN where a value is missing): filling, scaling and one column for
each category are a part of it, so that they travel with the weights and are in what is registered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from models.base import Objective, OptimizerSettings, output_layer, seeded
from models.classification import Classifier
from models.elastic_net import lowest_point
from models.network_arguments import LogisticRegressionArguments, MLPArguments, check_arguments

FLATTEST = 1e-9  # of the largest eigenvalue: below it a curvature kept in float32 has no inverse to speak of


@dataclass(frozen=True)
class TableArchitecture:
    """A network by name, and the columns it takes.

    Attributes:
        name: A name of the closed table, ``LogisticRegression`` or ``MLP``.
        categories: For each column the number of its categories; 0 for a number, 2 for a boolean.
        indicators: For each column whether the network is told that the value was missing.
        arguments: The network's own arguments; checked by `models.network_arguments.check_arguments`.
        curvature: Whether a logistic regression keeps gradient and curvature of its loss, for Newton steps.
        wide: Number of further columns, all numbers.
        keep: How many of those take part.
        components: Principal components of those, which the network sees in their place; 0 leaves them themselves.
    """

    name: str
    categories: Sequence[int]
    indicators: Sequence[bool]
    arguments: Mapping[str, Any]
    curvature: bool = False
    wide: int = 0
    keep: int = 0
    components: int = 0

    def __post_init__(self) -> None:
        if len(self.categories) != len(self.indicators) or not self.categories:
            raise ValueError("categories and indicators need one entry for each column, and one column at least")


class TableInput(nn.Module):
    """Rows of a table to inputs of a network: filled, scaled, one input for each category but the first.

    Its values (`fill`, `mean`, `scale`, each [F]) are fitted once, for all sites; they are not trained. So is which of
    the wide columns take part (`chosen`, their places; with `wide_mean` and `wide_scale`, each [keep]), and what their
    principal components are (`loadings` [components, keep], and the standard deviations `spread` [components]).

    Args:
        architecture: What of it are the columns.
    """

    fill: Tensor
    mean: Tensor
    scale: Tensor
    chosen: Tensor
    wide_mean: Tensor
    wide_scale: Tensor
    loadings: Tensor
    spread: Tensor

    def __init__(self, architecture: TableArchitecture) -> None:
        super().__init__()
        categories, self.keep, self.components = architecture.categories, architecture.keep, architecture.components
        self.categories, self.indicators = tuple(categories), tuple(architecture.indicators)
        self.register_buffer("fill", torch.zeros(len(categories)))
        self.register_buffer("mean", torch.zeros(len(categories)))
        self.register_buffer("scale", torch.ones(len(categories)))
        if self.keep:
            # Places as numbers of the kind that travels; float32 holds whole ones up to 16 million.
            self.register_buffer("chosen", torch.arange(self.keep).float())
            self.register_buffer("wide_mean", torch.zeros(self.keep))
            self.register_buffer("wide_scale", torch.ones(self.keep))
        if self.components:
            self.register_buffer("loadings", torch.zeros(self.components, self.keep))
            self.register_buffer("spread", torch.ones(self.components))

    @property
    def width(self) -> int:
        """Number of inputs of the network."""
        narrow = sum(max(count - 1, 1) for count in self.categories) + sum(self.indicators)
        return narrow + (self.components or self.keep)

    def set_fitted(self, fill: Sequence[float], mean: Sequence[float], scale: Sequence[float]) -> None:
        """Take over what was fitted.

        Raises:
            ValueError: If there is not one value for each column.
        """
        for buffer, values in ((self.fill, fill), (self.mean, mean), (self.scale, scale)):
            if len(values) != len(buffer):
                raise ValueError(f"{len(values)} values were fitted for {len(buffer)} columns")
            buffer.copy_(torch.tensor(values, dtype=torch.float64))

    def set_chosen(self, chosen: Sequence[int], mean: Sequence[float], scale: Sequence[float]) -> None:
        """Take over which wide columns take part, and what is done to them.

        Raises:
            ValueError: If there is not one value for each that is kept.
        """
        for buffer, values in ((self.chosen, chosen), (self.wide_mean, mean), (self.wide_scale, scale)):
            if len(values) != len(buffer):
                raise ValueError(f"{len(values)} values were fitted for {len(buffer)} wide columns")
            buffer.copy_(torch.tensor(values, dtype=torch.float64))

    def set_components(self, loadings: Sequence[Sequence[float]], spread: Sequence[float]) -> None:
        """Take over what the principal components are.

        Raises:
            ValueError: If there is not a row of loadings, one for each column that is kept, for each.
        """
        found = torch.tensor(loadings, dtype=torch.float64)
        if found.shape != self.loadings.shape or len(spread) != len(self.spread):
            raise ValueError(f"loadings of {tuple(found.shape)} were fitted for {tuple(self.loadings.shape)}")
        self.loadings.copy_(found)
        self.spread.copy_(torch.tensor(spread, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        """Return inputs [N, width] of rows [N, F + wide]; NaN is missing, a category is its place."""
        further = self._wide(rows) if self.keep else []
        rows = rows[:, : len(self.categories)]
        absent = torch.isnan(rows)
        filled = (torch.where(absent, self.fill, rows) - self.mean) / self.scale
        parts = []
        for place, count in enumerate(self.categories):
            column = filled[:, place]
            if count > 2:  # the first is what the others are compared with: their sum would else be a constant
                parts.append(F.one_hot(column.round().long().clamp(0, count - 1), count)[:, 1:].to(rows.dtype))
            else:
                parts.append(column.unsqueeze(1))
        told = [absent[:, place].unsqueeze(1).to(rows.dtype) for place, asked in enumerate(self.indicators) if asked]
        return torch.cat([*parts, *told, *further], dim=1)

    def _wide(self, rows: Tensor) -> list[Tensor]:
        """Return the inputs of the wide columns that take part: themselves, or their components of deviation 1."""
        chosen = rows[:, len(self.categories) :].index_select(1, self.chosen.round().long())
        scaled = (torch.where(torch.isnan(chosen), self.wide_mean, chosen) - self.wide_mean) / self.wide_scale
        return [scaled @ self.loadings.T / self.spread] if self.components else [scaled]


class NewtonLayer(nn.Linear):
    """A linear layer of one output that carries gradient and curvature of a mean loss beside its weights.

    Both are means over rows, so the mean of sites' values, weighted by rows, is that of all rows in one place.

    Args:
        inputs: Number of inputs, D.
        bias: Whether there is an intercept; P, the number of coefficients, is then D + 1.
    """

    gradient: Tensor
    curvature: Tensor

    def __init__(self, inputs: int, bias: bool = True) -> None:
        super().__init__(inputs, 1, bias=bias)
        numbers = inputs + bias
        self.register_buffer("gradient", torch.zeros(numbers))
        self.register_buffer("curvature", torch.zeros(numbers, numbers))

    @torch.no_grad()
    def take_step(self, ridge: float, lasso: float = 0.0) -> None:
        r"""Take the Newton step of what was measured; none, if nothing was.

        .. math:: w - (H + \lambda I)^{-1} (g + \lambda w)

        With a lasso it is that of `models.elastic_net`, and no lasso is on the intercept.

        Raises:
            ValueError: If the curvature cannot be inverted, or the elastic net does not settle.
        """
        if not self.curvature.any():
            return
        now = self._coefficients()
        if lasso:
            then = lowest_point(self.gradient, self.curvature, now, ridge=ridge, lasso=lasso, thinned=self.in_features)
        else:
            then = self._inverted(now, ridge)
        self.weight.copy_(then[: self.in_features].unsqueeze(0))
        if self.bias is not None:
            self.bias.copy_(then[self.in_features :])

    def _inverted(self, now: Tensor, ridge: float) -> Tensor:
        """Return where the plain step leads."""
        curvature = self.curvature.double() + ridge * torch.eye(len(now), dtype=torch.float64)
        values = torch.linalg.eigvalsh(curvature)
        if not values[0] > FLATTEST * values[-1]:
            raise ValueError("the curvature of the loss cannot be inverted")
        step: Tensor = torch.linalg.solve(curvature, self.gradient.double() + ridge * now)
        return now - step

    def _coefficients(self) -> Tensor:
        """Return weights and intercept [P] in double precision."""
        parts = [self.weight[0]] if self.bias is None else [self.weight[0], self.bias]
        return torch.cat(parts).double()


class NewtonLinear(NewtonLayer):
    r"""A logistic regression's logits, with gradient and curvature of the mean cross-entropy beside its weights.

    With rows :math:`x_i` (a 1 appended), chances :math:`p_i` and labels :math:`y_i`,

    .. math:: g = \frac1n\sum_i (p_i - y_i)\,x_i,\qquad H = \frac1n\sum_i p_i (1 - p_i)\,x_i x_i^T

    Args:
        inputs: Number of inputs, D; there is one output.
    """

    @torch.no_grad()
    def measure(self, inputs: Tensor, labels: Tensor) -> None:
        """Keep gradient and curvature at the present weights, over inputs [N, D] and labels [N]."""
        rows = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
        chance = torch.sigmoid(rows @ self._coefficients())
        self.gradient.copy_(rows.T @ (chance - labels.double()) / len(rows))
        self.curvature.copy_((rows.T * (chance * (1 - chance))) @ rows / len(rows))


class RiskModel(Classifier):
    """A network that predicts an outcome from a patient's record, its loss and its optimiser.

    Args:
        architecture: The network and the columns it takes.
        objective: What is predicted, and how unequal classes are handled.
        optimizer: What it is trained with.
        seed: Seed of the first weights; see `models.classification.ImageClassifier`.

    Raises:
        ValueError: If the network's arguments are wrong.
    """

    separated = "the features tell the classes apart without an error"

    def __init__(
        self, architecture: TableArchitecture, *, objective: Objective, optimizer: OptimizerSettings, seed: int
    ) -> None:
        super().__init__(objective, optimizer)
        self.architecture = architecture
        self.inputs = TableInput(architecture)
        self.network = seeded(seed, lambda: build_table_network(architecture, self.inputs.width, objective.logits))

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [N, K] of rows [N, F], NaN where a value is missing; K is 1 for a binary task."""
        return self.network(self.inputs(rows))  # type: ignore[no-any-return]

    def newton(self, rows: Tensor, labels: Tensor, ridge: float, lasso: float = 0.0) -> None:
        """Take the step of what was measured before, and measure again, on rows [N, F] and labels [N].

        Raises:
            ValueError: If the network keeps no curvature, or it cannot be inverted.
        """
        if not isinstance(self.network, NewtonLinear):
            raise ValueError("Newton steps need a logistic regression that keeps its curvature")
        self.network.take_step(ridge, lasso)
        with torch.no_grad():
            self.network.measure(self.inputs(rows), labels)


def build_table_network(architecture: TableArchitecture, inputs: int, outputs: int) -> nn.Module:
    """Build a network that maps [N, inputs] to logits [N, outputs]; its first weights are drawn from torch's generator.

    Raises:
        ValueError: If an argument is unknown, mistyped or out of range, or there is no such network for tables.
    """
    chosen = check_arguments(architecture.name, architecture.arguments)
    if isinstance(chosen, LogisticRegressionArguments):
        layer = NewtonLinear(inputs) if architecture.curvature else nn.Linear(inputs, outputs)
        nn.init.zeros_(layer.weight)  # its loss has one lowest point: no chance is needed to find it
        nn.init.zeros_(layer.bias)
        return layer
    return build_perceptron(architecture, inputs, outputs)


def build_perceptron(architecture: TableArchitecture, inputs: int, outputs: int) -> nn.Module:
    """Build a multilayer perceptron that maps [N, inputs] to [N, outputs].

    Raises:
        ValueError: If an argument is unknown, mistyped or out of range, or the name is another network's.
    """
    chosen = check_arguments(architecture.name, architecture.arguments)
    if not isinstance(chosen, MLPArguments):
        raise ValueError(f"{architecture.name} is no network for this task; a table needs a linear one or MLP")
    layers: list[nn.Module] = []
    for before, width in zip((inputs, *chosen.widths), chosen.widths, strict=False):
        layers.append(nn.Linear(before, width))
        layers += [nn.BatchNorm1d(width)] if chosen.norm == "batch" else []
        layers += [nn.ReLU(), nn.Dropout(chosen.dropout)]
    return nn.Sequential(*layers, output_layer(nn.Linear(chosen.widths[-1], outputs)))
