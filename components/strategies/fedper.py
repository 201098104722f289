"""Federated averaging of all but the output layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from components.rounds import ServerState, Update
from components.strategies.base import Instructions, Personal, Weighting, averaged_weights, first_state, weighted_mean
from components.strategies.hyperparameters import require_weighting


@dataclass(frozen=True)
class FedPer:
    r"""Each site keeps its own output layers; the layers below them are averaged as in `FedAvg`.

    .. math::
        w_{t+1, l} = \sum_k \frac{n_k}{n} w_{t+1, l}^k \quad \text{for every layer } l
        \text{ that is not an output layer}

    For hospitals that agree on what matters of a patient, and not on what follows from it. Which layers are output
    layers the networks of `models` say themselves; told by the instruction ``personal``, the sites leave them out of
    their updates. Both parts are trained together, in every local step.

    Args:
        weighting: ``samples`` or ``uniform``.

    Guarantees:
        The global model keeps the initial values of the output layers. So the global model alone is nobody's: a site
        evaluates, tests and scores with its own output layers over it, and a new site has to train its own first.

    Reference:
        Arivazhagan, Aggarwal, Singh, Choudhary, Federated Learning with Personalization Layers, arXiv 1912.00818,
        algorithms 1 and 2, with one personal layer.

    >>> import torch
    >>> state = FedPer().init({"below": torch.zeros(1), "output": torch.ones(1)})
    >>> north = Update("north", 1, {"below": torch.tensor([4.0])}, weight=10)
    >>> FedPer().aggregate(state, [north]).weights
    {'below': tensor([4.]), 'output': tensor([1.])}
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "output"

    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        require_weighting(self.weighting)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`."""
        return first_state(weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask the sites to keep their output layers."""
        return {"personal": "output"}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`.

        Raises:
            ValueError: If there is no update, or the updates differ in their entries.
        """
        mean = weighted_mean(updates, self.weighting)
        return replace(state, round=state.round + 1, weights=averaged_weights(state, mean))
