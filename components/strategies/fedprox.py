"""Federated averaging of sites that are held near the global model."""

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
from components.strategies.hyperparameters import require_not_negative, require_weighting


@dataclass(frozen=True)
class FedProx:
    r"""Each site adds a proximal term to its loss; the server averages as in `FedAvg`.

    .. math::
        h_k(w; w_t) = F_k(w) + \frac{\mu}{2} \lVert w - w_t \rVert^2, \qquad
        w_{t+1} = \sum_k \frac{n_k}{n} w_{t+1}^k

    The site's half, the gradient :math:`\mu (w - w_t)` of the term, is in `components.training`; it is told
    by the instruction ``proximal_weight``.

    Args:
        proximal_weight: :math:`\mu`, 0 or more; 0 is `FedAvg`. The paper tunes it among 0.001, 0.01, 0.1
            and 1; the default is a cautious one of these, not a recommendation.
        weighting: ``samples`` or ``uniform``. The paper draws sites with a probability proportional to
            their samples and then averages uniformly; with sites asked regardless of their size, weighting
            by samples has the same expectation.

    Guarantees:
        As `FedAvg`. What the proximal term does not touch (statistics) is averaged like all else.

    Reference:
        Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, algorithm 2, with the
        local epochs in place of a measured inexactness.

    >>> import torch
    >>> FedProx(proximal_weight=0.1).instructions(FedProx().init({"w": torch.zeros(1)}))
    {'proximal_weight': 0.1}
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "none"

    proximal_weight: float = 0.01
    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        require_not_negative("proximal_weight", self.proximal_weight)
        require_weighting(self.weighting)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`."""
        return first_state(weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask for the proximal term."""
        return {"proximal_weight": float(self.proximal_weight)}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`.

        Raises:
            ValueError: If there is no update, or the updates do not have exactly the entries of the state.
        """
        mean = weighted_mean(updates, self.weighting)
        require_all_entries(state, mean)
        return replace(state, round=state.round + 1, weights=averaged_weights(state, mean))
