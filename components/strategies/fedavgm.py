"""Federated averaging with momentum at the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from components.rounds import ServerState, Update
from components.strategies.base import Instructions, Personal, Weighting, first_state, weighted_mean
from components.strategies.hyperparameters import require_decay, require_positive, require_weighting
from components.strategies.server_step import server_step, slot_like


@dataclass(frozen=True)
class FedAvgM:
    r"""The server moves along a running sum of the rounds' mean changes.

    .. math::
        \Delta_t = \sum_k \frac{n_k}{n} (w_{t+1}^k - w_t), \qquad
        v_{t+1} = \beta v_t + \Delta_t, \qquad w_{t+1} = w_t + \eta v_{t+1}, \qquad v_0 = 0

    The paper writes :math:`\Delta w = w_t - \bar w_{t+1}` and subtracts; the two signs cancel.

    Args:
        server_learning_rate: :math:`\eta`, above 0. The paper has no such factor (it is 1).
        momentum: :math:`\beta`, in [0, 1). A constant change is followed :math:`1 / (1 - \beta)` times as
            fast in the end; the paper lowers the sites' learning rate with it.
        weighting: ``samples`` or ``uniform``.

    Guarantees:
        With momentum 0 and server learning rate 1 the result is that of `FedAvg`, up to the last bit of
        an entry. Statistics are plainly averaged. :math:`v` is the slot ``momentum``.

    Reference:
        Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual
        Classification, 2019 (FedAvgM), with plain and not with Nesterov's momentum.

    >>> import torch
    >>> strategy = FedAvgM(momentum=0.5)
    >>> state = strategy.init({"w": torch.tensor([1.0])})
    >>> state = strategy.aggregate(state, [Update("north", 1, {"w": torch.tensor([2.0])}, weight=1)])
    >>> strategy.aggregate(state, [Update("north", 2, {"w": torch.tensor([3.0])}, weight=1)]).weights["w"]
    tensor([3.5000])
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "none"

    server_learning_rate: float = 1.0
    momentum: float = 0.9
    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        require_positive("server_learning_rate", self.server_learning_rate)
        require_decay("momentum", self.momentum)
        require_weighting(self.weighting)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`; the slot starts at zero."""
        state = first_state(weights, statistics)
        return replace(state, slots={"momentum": slot_like(state, 0.0)})

    def instructions(self, state: ServerState) -> Instructions:
        """Ask for plain local training."""
        return {}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`.

        Raises:
            ValueError: If there is no update, or the updates do not have exactly the entries of the state.
        """
        return server_step(state, weighted_mean(updates, self.weighting), self._rule)

    def _rule(self, delta: Tensor, slots: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return step and momentum of one entry."""
        momentum = self.momentum * slots["momentum"] + delta
        return self.server_learning_rate * momentum, {"momentum": momentum}
