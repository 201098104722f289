"""Boosted trees on tables: a Lightning module whose weights are trees, and which is grown instead of trained.

The module takes rows as they are in the table (NaN where a value is missing). It says of each row where it stands in
the trees, and which way the loss leads there; who adds that up and grows the next level is not its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from models.base import Objective, OptimizerSettings
from models.classification import Classifier
from models.network_arguments import BoostedTreesArguments, check_arguments

BEYOND = torch.finfo(torch.float32).max  # an edge that no value reaches
FINEST = 2.0**-30  # gradients are multiples of it, so sums over 2**22 rows are exact in double precision, in any order
SPARE = 2  # slots of a histogram that are no value's: a category that is not told apart, and what is missing
PIECE = 4096  # rows that go through all trees at once


class BoostedTrees(nn.Module):
    r"""Binary trees of one depth, K for each step of boosting, and the histogram that a site has added up.

    The nodes of a tree of depth D are numbered from its root, 0; the children of node i are 2 i + 1 and 2 i + 2. A row
    goes to the right child if its number reaches the node's threshold, or if its category is the node's; where the
    value is missing, as the node says. The logit is :math:`b_k + \sum_t v_{t k}(x)`.

    Entries, all floating point, since those are what travels; T trees, K logits, F columns, I = 2**D - 1 inner nodes:

    - ``base`` [K]; ``feature`` [T, K, I], -1 where a node is not split; ``threshold`` [T, K, I];
      ``missing_right`` [T, K, I]; ``value`` [T, K, 2 I + 1], the logit's share of a node; and what nobody needs to
      score, but to explain: ``gain`` [T, K, I] of each split and ``weight`` [T, K, 2 I + 1], the curvature in a node;
    - ``edges`` [F, bins - 1], rising: the b-th bin of a number ends below the b-th edge; ``places`` [F], the number of
      categories, 0 for a number or a boolean; ``exclusive`` [1], whether the K classes exclude each other;
    - ``place`` [2]: the tree and the level that are grown next; tree -1 stands for ``base``;
    - ``sums`` [K, 2**(D-1), F, slots, 2] in double precision: gradients and curvatures of the rows in each node of that
      level, by slot. The slots are the bins or categories, then `SPARE` more. Zero in what a server publishes.

    Args:
        arguments: Trees, depth, bins.
        categories: For each column the number of its categories; 0 for a number, 2 for a boolean.
        outputs: K.
        exclusive: Whether the classes exclude each other.
    """

    edges: Tensor
    places: Tensor
    exclusive: Tensor
    place: Tensor
    feature: Tensor
    threshold: Tensor
    missing_right: Tensor
    value: Tensor
    gain: Tensor
    weight: Tensor
    sums: Tensor

    def __init__(
        self, arguments: BoostedTreesArguments, categories: Sequence[int], outputs: int, *, exclusive: bool
    ) -> None:
        super().__init__()
        self.depth, self.bins = arguments.depth, arguments.bins
        shape, inner = (arguments.trees, outputs), 2**arguments.depth - 1
        places = [count if count > 2 else 0 for count in categories]
        self.slots = max(arguments.bins, max(places) + 1) + SPARE
        edges = torch.full((len(categories), arguments.bins - 1), BEYOND)
        edges[[count == 2 for count in categories], 0] = 0.5
        # A parameter that is not trained, so that the module is known to be on a device.
        self.base = nn.Parameter(torch.zeros(outputs), requires_grad=False)
        self.register_buffer("edges", edges)
        self.register_buffer("places", torch.tensor(places, dtype=torch.float32))
        self.register_buffer("exclusive", torch.tensor([float(exclusive)]))
        self.register_buffer("place", torch.tensor([-1.0, 0.0]))
        self.register_buffer("feature", torch.full((*shape, inner), -1.0))
        self.register_buffer("threshold", torch.zeros(*shape, inner))
        self.register_buffer("missing_right", torch.zeros(*shape, inner))
        self.register_buffer("value", torch.zeros(*shape, 2 * inner + 1))
        self.register_buffer("gain", torch.zeros(*shape, inner))
        self.register_buffer("weight", torch.zeros(*shape, 2 * inner + 1))
        widest = (outputs, 2 ** (arguments.depth - 1), len(categories), self.slots, 2)
        self.register_buffer("sums", torch.zeros(widest, dtype=torch.float64))

    def set_edges(self, edges: Sequence[Sequence[float]]) -> None:
        """Take over where the bins of each column end; of categories there are none.

        Raises:
            ValueError: If there is not one list for each column, or it has more edges than there are bins.
        """
        if len(edges) != len(self.edges) or any(len(own) >= self.bins for own in edges):
            raise ValueError(
                f"{len(edges)} columns' edges were fitted for {len(self.edges)} columns of {self.bins} bins"
            )
        for place, own in enumerate(edges):
            self.edges[place] = BEYOND
            self.edges[place, : len(own)] = torch.tensor(own, dtype=torch.float32)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [N, K] of rows [N, F], NaN where a value is missing."""
        return self.before(rows, len(self.feature))

    def before(self, rows: Tensor, tree: int) -> Tensor:
        """Return the logits [N, K] of the trees before the one of a number alone."""
        count, outputs = rows.shape[0], self.feature.shape[1]  # len() would be a constant in an exported program
        node = torch.zeros((count, tree, outputs), dtype=torch.int64, device=rows.device)
        for _ in range(self.depth):
            feature = _at(self.feature, node)
            column = feature.clamp(min=0).long()
            value = rows.gather(1, column.flatten(1)).reshape(column.shape)
            right = _goes_right(value, _at(self.threshold, node), _at(self.missing_right, node), self.places[column])
            node = torch.where(feature < 0, node, 2 * node + 1 + right.long())
        return (_at(self.value, node).double().sum(dim=1) + self.base.double()).to(rows.dtype)

    def right_of(self, rows: Tensor, tree: int) -> Tensor:
        """Return whether each row would go right at each inner node of a tree, bool [N, K, I], wherever it stands."""
        column = self.feature[tree].clamp(min=0).long()
        return _goes_right(rows[:, column], self.threshold[tree], self.missing_right[tree], self.places[column])

    def slots_of(self, rows: Tensor) -> Tensor:
        """Return the slot of each value, int64 [N, F]: its bin or category; the last slot for what is missing."""
        absent = torch.isnan(rows)
        numbers = torch.searchsorted(self.edges, rows.T.contiguous(), right=True).T
        slots = torch.where(self.places > 0, rows.nan_to_num(0.0).round().long(), numbers)
        return torch.where(absent, self.slots - 1, slots)


class TreesModel(Classifier):
    """Boosted trees that predict an outcome from a patient's record.

    Args:
        categories: For each column the number of its categories; 0 for a number, 2 for a boolean.
        arguments: Trees, depth and bins; checked by `models.network_arguments.check_arguments`.
        objective: What is predicted.

    Raises:
        ValueError: If an argument is wrong.

    Reference:
        Friedman, Greedy function approximation: a gradient boosting machine, Annals of Statistics 2001; with second
        derivatives, Chen and Guestrin, XGBoost: a scalable tree boosting system, KDD 2016.
    """

    network: BoostedTrees

    def __init__(self, categories: Sequence[int], arguments: dict[str, Any], *, objective: Objective) -> None:
        super().__init__(objective, OptimizerSettings())
        chosen = check_arguments("BoostedTrees", arguments)
        assert isinstance(chosen, BoostedTreesArguments)
        self.inputs = nn.Identity()  # where other risk models fill and scale
        exclusive = objective.kind == "multiclass"
        self.network = BoostedTrees(chosen, categories, objective.logits, exclusive=exclusive)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits [N, K] of rows [N, F], NaN where a value is missing; K is 1 for a binary task."""
        return self.network(rows)  # type: ignore[no-any-return]

    @torch.no_grad()
    def slopes(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return gradient and curvature of each row's cross-entropy by its logits, float64 [N, K] each.

        .. math:: g = p - y, \qquad h = p (1 - p)

        at the trees before the one that is grown, rounded to multiples of `FINEST`. Before there is any tree, the
        outcome and 1 in their place: what ``base`` is made of.
        """
        truth = self._truth(labels)
        if self.network.place[0] < 0:
            return truth, torch.ones_like(truth)
        tree = int(self.network.place[0])
        logits = torch.cat([self.network.before(piece, tree) for piece in torch.split(rows.double(), PIECE)])
        chance = self.probabilities(logits)
        return _rounded(chance - truth), _rounded(chance * (1 - chance))

    def _truth(self, labels: Tensor) -> Tensor:
        """Return labels as 0 and 1, float64 [N, K]."""
        if labels.is_floating_point():
            return labels.double()
        if self.objective.kind == "binary":
            return labels.double().unsqueeze(1)
        return F.one_hot(labels, self.objective.classes).double()


def _at(entry: Tensor, node: Tensor) -> Tensor:
    """Return an entry [T, K, nodes] at a node of each of the first trees, [N, <= T, K]."""
    count, trees, _ = node.shape
    return entry[:trees].expand(count, -1, -1, -1).gather(3, node.unsqueeze(3)).squeeze(3)


def _goes_right(value: Tensor, threshold: Tensor, missing_right: Tensor, places: Tensor) -> Tensor:
    """Return whether values go right at their nodes; all of one shape, or made so."""
    reached = torch.where(places > 0, value == threshold, value >= threshold)
    return torch.where(torch.isnan(value), missing_right > 0, reached)


def _rounded(values: Tensor) -> Tensor:
    """Round to multiples of `FINEST`."""
    return (values / FINEST).round() * FINEST
