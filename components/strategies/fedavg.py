"""Federated averaging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from components.rounds import ServerState, Update
from components.strategies.base import (
    Instructions,
    Personal,
    Weighting,
    averaged_weights,
    first_state,
    require_all_entries,
    weighted_mean,
)
from components.strategies.hyperparameters import require_weighting


@dataclass(frozen=True)
class FedAvg:
    r"""The global model becomes the weighted mean of the sites' models.

    .. math:: w_{t+1} = \sum_k \frac{n_k}{n} w_{t+1}^k, \qquad n = \sum_k n_k

    Args:
        weighting: ``samples`` (:math:`n_k` is the number of samples site k trained on) or ``uniform``
            (every site counts the same, :math:`n_k = 1`).

    Guarantees:
        One site's federation equals its local training bit for bit, for entries up to float32 and up to
        2**29 samples. The result does not depend on who came first, since updates are read in the order
        of site names. Entries that are statistics are averaged like all others.

    Reference:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS
        2017, algorithm 1. There :math:`n` counts the samples of the sites of the round, as here.

    >>> import torch
    >>> state = FedAvg().init({"w": torch.zeros(2)})
    >>> north = Update("north", 1, {"w": torch.tensor([1.0, 2.0])}, weight=30)
    >>> south = Update("south", 1, {"w": torch.tensor([5.0, 2.0])}, weight=10)
    >>> FedAvg().aggregate(state, [north, south]).weights["w"]
    tensor([2., 2.])
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "none"

    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        require_weighting(self.weighting)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`."""
        return first_state(weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask for plain local training."""
        return {}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`.

        Raises:
            ValueError: If there is no update, or the updates do not have exactly the entries of the state.
        """
        mean = weighted_mean(updates, self.weighting)
        require_all_entries(state, mean)
        return replace(state, round=state.round + 1, weights=averaged_weights(state, mean))
