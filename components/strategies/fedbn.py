"""Federated averaging of all but the normalisation layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from components.rounds import ServerState, Update
from components.strategies.base import Instructions, Personal, Weighting, averaged_weights, first_state, weighted_mean
from components.strategies.hyperparameters import require_weighting


@dataclass(frozen=True)
class FedBN:
    r"""Each site keeps its own normalisation layers; the rest is averaged as in `FedAvg`.

    .. math::
        w_{t+1, l} = \sum_k \frac{n_k}{n} w_{t+1, l}^k \quad \text{for every layer } l
        \text{ that is not a normalisation layer}

    Which entries belong to normalisation layers is found at the sites, by module type; told by the
    instruction ``personal``, they leave them out of their updates.

    Args:
        weighting: ``samples`` or ``uniform``. The paper averages uniformly over sites of equal size.

    Guarantees:
        The global model keeps the initial values of the entries that no update has. So the global model
        alone is not what a site uses: a site evaluates with its own normalisation entries over it, and a
        new site has to estimate its own first.

    Reference:
        Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021,
        algorithm 1.

    >>> import torch
    >>> state = FedBN().init({"conv": torch.zeros(1), "norm": torch.ones(1)})
    >>> north = Update("north", 1, {"conv": torch.tensor([4.0])}, weight=10)
    >>> FedBN().aggregate(state, [north]).weights
    {'conv': tensor([4.]), 'norm': tensor([1.])}
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "normalisation"

    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        require_weighting(self.weighting)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`."""
        return first_state(weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask the sites to keep their normalisation entries."""
        return {"personal": "normalisation"}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`.

        Raises:
            ValueError: If there is no update, the updates differ in their entries, or an update holds a
                statistic of its site: it is part of a normalisation layer and must not leave it. One that is what
                it was (the scales of a table's columns) says nothing of a site.
        """
        mean = weighted_mean(updates, self.weighting)
        found = {name: mean.entry(name) for name in mean.names & state.statistics}
        leaked = sorted(
            name for name, value in found.items() if not torch.equal(value.to(state.weights[name]), state.weights[name])
        )
        if leaked:
            raise ValueError(f"updates hold normalisation entries that must stay at the sites: {leaked[:5]}")
        return replace(state, round=state.round + 1, weights=averaged_weights(state, mean))
