"""Gradient-boosted trees, grown level by level from the sites' summed histograms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from components.rounds import ServerState, Update
from components.strategies.base import Instructions, Personal, added, first_state
from components.strategies.hyperparameters import require_not_negative, require_positive
from components.weights import Weights

ENTRIES = (
    "base", "edges", "exclusive", "feature", "gain", "missing_right", "place", "places", "sums", "threshold", "value",
    "weight",
)  # fmt: skip
NETWORK = "network."  # the trees in a model, by the names of `models.trees.BoostedTrees`
SPARE = 2  # slots of a histogram after those of values: categories told together, and what is missing
BEYOND = torch.finfo(torch.float32).max
NO_GAIN = 1e-10  # what rounding can make of a split that changes nothing


class Split(NamedTuple):
    """How a node is divided, what that gains, and the sums (gradient, curvature) on both sides."""

    feature: int
    slot: int
    missing_right: bool
    gain: float
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class HistogramBoosting:
    r"""Every round grows one level of one tree (of one for each class), from gradients of the rows of all sites.

    By event, with :math:`g_i, h_i` gradient and curvature of a row's loss at the present trees:

    - site: for each node of the level, each feature and each bin, :math:`G^k = \sum g_i,\ H^k = \sum h_i`.
    - coordinator: :math:`G = \sum_k G^k,\ H = \sum_k H^k`; each node is split where the gain is the largest,

    .. math:: \frac12 \left[\frac{G_L^2}{H_L + \lambda} + \frac{G_R^2}{H_R + \lambda}
              - \frac{(G_L + G_R)^2}{H_L + H_R + \lambda}\right] - \gamma > 0

    and the children's values are :math:`-\eta\, G / (H + \lambda)`. Rows without a value go where they gain more. A
    number is split between bins, a category from all others. The first round finds the chance of each class.

    The strategy reads nothing of an update but its sums: trees are its own, and published sums are zero.

    Args:
        learning_rate: :math:`\eta`, above 0 and at most 1.
        l2: :math:`\lambda`, at least 0.
        min_child_weight: Smallest H of a child, at least 0. A row counts a quarter or less.
        min_gain: :math:`\gamma`, at least 0.

    Guarantees:
        Where each site tells its sums exactly, the trees are those of all rows in one place, bit for bit, however the
        rows are split into sites: gradients are multiples of 2**-30, so that sums have no rounding. Of equal gains
        the first counts, by feature, then bin.

    Reference:
        Chen and Guestrin, XGBoost: a scalable tree boosting system, KDD 2016, equations 5 to 7 and algorithm 3 with
        bins agreed on before; levels of nodes as in Mehta et al., SLIQ, EDBT 1996.
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "none"

    learning_rate: float = 0.1
    l2: float = 1.0
    min_child_weight: float = 1.0
    min_gain: float = 0.0

    def __post_init__(self) -> None:
        require_positive("learning_rate", self.learning_rate)
        if self.learning_rate > 1:
            raise ValueError(f"learning_rate must be at most 1, given {self.learning_rate}")
        for name in ("l2", "min_child_weight", "min_gain"):
            require_not_negative(name, getattr(self, name))

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`.

        Raises:
            ValueError: If the weights are not those of boosted trees.
        """
        if weights.keys() != {NETWORK + name for name in ENTRIES}:
            raise ValueError("HistogramBoosting grows trees: it needs a network of the kind BoostedTrees")
        return first_state(weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask for the sums of the level that the weights name."""
        return {}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`."""
        sums = added(updates, NETWORK + "sums")
        if sums.shape != state.weights[NETWORK + "sums"].shape:
            raise ValueError(f"the sums have shape {tuple(sums.shape)}, not that of the trees to be grown")
        weights = {name: tensor.clone() for name, tensor in state.weights.items()}
        trees = {name: weights[NETWORK + name] for name in ENTRIES}
        tree, level = (int(value) for value in trees["place"])
        if tree < 0:
            trees["base"].copy_(_first_chance(sums, exclusive=bool(trees["exclusive"][0])))
            trees["place"].zero_()
        elif tree < len(trees["feature"]):
            grown = [self._grow(trees, (tree, output, level), sums[output]) for output in range(len(sums))]
            ends = not any(grown) or 2 ** (level + 1) > trees["feature"].shape[2]
            trees["place"].copy_(torch.tensor([tree + 1, 0] if ends else [tree, level + 1]))
        return replace(state, round=state.round + 1, weights=weights)

    def _grow(self, trees: Weights, where: tuple[int, int, int], sums: Tensor) -> bool:
        """Split the nodes of one level of a tree; return whether any was."""
        tree, output, level = where
        own = {name: tensor[tree, output] for name, tensor in trees.items() if tensor.dim() == 3}
        first, found = 2**level - 1, False
        if not level:
            self._set_node(own, 0, sums[0, 0].sum(dim=0))
        for place in range(2**level):
            node = first + place
            reached = not level or bool(own["feature"][(node - 1) // 2] >= 0)
            split = self._best_split(sums[place], trees["places"] > 0) if reached else None
            if split is None:
                continue
            found = True
            own["feature"][node], own["missing_right"][node] = split.feature, float(split.missing_right)
            own["threshold"][node], own["gain"][node] = _threshold(trees, split), split.gain
            self._set_node(own, 2 * node + 1, split.left)
            self._set_node(own, 2 * node + 2, split.right)
        return found

    def _set_node(self, own: Weights, node: int, sums: Tensor) -> None:
        """Set a node's share of the logit, and its weight."""
        gradient, curvature = sums.tolist()
        own["value"][node] = -self.learning_rate * gradient / (curvature + self.l2) if curvature + self.l2 > 0 else 0.0
        own["weight"][node] = curvature

    def _best_split(self, sums: Tensor, categorical: Tensor) -> Split | None:
        """Return the split that gains the most, of a node's sums [F, slots, 2]; None if none gains."""
        values, missing, total = sums[:, :-SPARE], sums[:, -1:], sums.sum(dim=1, keepdim=True)
        below = torch.where(categorical[:, None, None], total - missing - values, values.cumsum(dim=1))
        left = torch.stack([below + missing, below], dim=2)  # [F, slots, missing goes left or right, 2]
        right = total.unsqueeze(2) - left
        gain = (self._score(left) + self._score(right) - self._score(total.unsqueeze(2))) / 2
        lightest = torch.minimum(left[..., 1], right[..., 1])
        gain = torch.where((lightest >= self.min_child_weight) & (lightest > 0), gain, -torch.inf)
        best = int(gain.numpy().argmax())  # numpy's is the first of equal ones
        feature, rest = divmod(best, gain[0].numel())
        slot, direction = divmod(rest, 2)
        gained = float(gain[feature, slot, direction]) - self.min_gain
        if not gained > NO_GAIN:
            return None
        one, other = left[feature, slot, direction], right[feature, slot, direction]
        if not missing[feature, 0, 1]:  # nobody says: where most are
            direction = int(other[1] > one[1])
        return Split(feature, slot, bool(direction), gained, one, other)

    def _score(self, sums: Tensor) -> Tensor:
        """Return G^2 / (H + l2), 0 of nothing."""
        gradient, curvature = sums[..., 0], sums[..., 1] + self.l2
        return torch.where(curvature > 0, gradient * gradient / curvature, 0.0)


def _first_chance(sums: Tensor, *, exclusive: bool) -> Tensor:
    """Return the logits [K] of how frequent each outcome is; the sums are of outcomes and rows."""
    positive, rows = sums[:, 0, 0, :, 0].sum(dim=1), sums[:, 0, 0, :, 1].sum(dim=1)
    chance = (positive / rows).clamp(min=0.5 / rows, max=1 - 0.5 / rows)  # of an outcome that nobody has, too
    return torch.log(chance) if exclusive else torch.logit(chance)


def _threshold(trees: Weights, split: Split) -> float:
    """Return what a value is compared with at a split: the bin's end, or the category."""
    if trees["places"][split.feature] > 0:
        return float(split.slot)
    edges = trees["edges"][split.feature]
    return float(edges[split.slot]) if split.slot < len(edges) else BEYOND
