"""Federated averaging of all but the normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from components.rounds import ServerState
from components.strategies.base import Personal
from components.strategies.personal import PersonalAveraging
from components.weights import WeightedMean


@dataclass(frozen=True)
class FedBN(PersonalAveraging):
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
    >>> from components.rounds import Update
    >>> state = FedBN().init({"conv": torch.zeros(1), "norm": torch.ones(1)})
    >>> north = Update("north", 1, {"conv": torch.tensor([4.0])}, weight=10)
    >>> FedBN().aggregate(state, [north]).weights
    {'conv': tensor([4.]), 'norm': tensor([1.])}
    """

    personal: ClassVar[Personal] = "normalisation"

    def check(self, state: ServerState, mean: WeightedMean) -> None:
        """Refuse a statistic of a site: it is part of a normalisation layer and must not leave it.

        One that is what it was (the scales of a table's columns) says nothing of a site.

        Raises:
            ValueError: If there is one.
        """
        found = {name: mean.entry(name) for name in mean.names & state.statistics}
        leaked = sorted(
            name for name, value in found.items() if not torch.equal(value.to(state.weights[name]), state.weights[name])
        )
        if leaked:
            raise ValueError(f"updates hold normalisation entries that must stay at the sites: {leaked[:5]}")
