r"""FedAdagrad, FedAdam and FedYogi: the adaptive server optimisers of Reddi et al. (2021), algorithm 2.

All three share every line of the algorithm but one, the second moment:

.. math::
    \Delta_t &= \sum_k \frac{n_k}{n} (x_{t+1}^k - x_t) \\
    m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \Delta_t \\
    v_t &= \text{see the strategy} \\
    x_{t+1} &= x_t + \eta \frac{m_t}{\sqrt{v_t} + \tau}

with :math:`m_{-1} = 0` and :math:`v_{-1} = \tau^2`, the smallest value that the algorithm allows. As in the
algorithm, there is no correction of bias, :math:`\tau` stands outside of the root, and :math:`v` is fed with
the mean change and not with its momentum. The algorithm averages uniformly, the paper's experiments by
samples: that is `weighting`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from components.rounds import ServerState, Update
from components.strategies.base import Instructions, Personal, Weighting, first_state, weighted_mean
from components.strategies.hyperparameters import require_decay, require_positive, require_weighting
from components.strategies.server_step import server_step, slot_like


@dataclass(frozen=True)
class FedAdagrad:
    r"""Server Adagrad: :math:`v_t = v_{t-1} + \Delta_t^2`; the module has the rest of the algorithm.

    Args:
        server_learning_rate: :math:`\eta`, above 0. The paper finds it by a grid for each task.
        momentum_decay: :math:`\beta_1`, in [0, 1); the paper uses 0 here.
        adaptivity: :math:`\tau`, above 0, in the unit of the weights; smaller is more adaptive. 0.001 works
            nearly everywhere in the paper.
        weighting: ``samples`` or ``uniform``.

    Guarantees:
        :math:`v_t` never falls below :math:`\tau^2`, so no entry moves by more than
        :math:`\eta |m_t| / (2 \tau)`, up to rounding. Statistics are plainly averaged. Slots: :math:`m` is
        ``momentum``, :math:`v` is ``second_moment``; `ServerState.step` counts the steps.

    Reference:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2, option FedAdagrad.

    >>> strategy = FedAdagrad(server_learning_rate=1.0, adaptivity=1.0)
    >>> state = strategy.init({"w": torch.tensor([0.0])})
    >>> after = strategy.aggregate(state, [Update("north", 1, {"w": torch.tensor([8.0 ** 0.5])}, weight=1)])
    >>> after.slots["second_moment"]["w"], after.weights["w"]
    (tensor([9.]), tensor([0.7071]))
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "none"

    server_learning_rate: float = 0.01
    momentum_decay: float = 0.0
    adaptivity: float = 1e-3
    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        _require(self)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`."""
        return _init(self, weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask for plain local training."""
        return {}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`."""
        return server_step(state, weighted_mean(updates, self.weighting), self._rule)

    def _rule(self, delta: Tensor, slots: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return step and slots of one entry."""
        return _step(self, delta, slots["momentum"], slots["second_moment"] + delta**2)


@dataclass(frozen=True)
class FedAdam:
    r"""Server Adam: :math:`v_t = \beta_2 v_{t-1} + (1 - \beta_2) \Delta_t^2`; the module has the rest.

    Args:
        server_learning_rate: :math:`\eta`, above 0. The paper finds it by a grid for each task.
        momentum_decay: :math:`\beta_1`, in [0, 1).
        second_moment_decay: :math:`\beta_2`, in [0, 1).
        adaptivity: :math:`\tau`, above 0, as in `FedAdagrad`.
        weighting: ``samples`` or ``uniform``.

    Guarantees:
        :math:`v_t \ge 0`, so no entry moves by more than :math:`\eta |m_t| / \tau`. Statistics are plainly
        averaged. Slots and steps as in `FedAdagrad`.

    Reference:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2, option FedAdam.

    >>> strategy = FedAdam(server_learning_rate=1.0, momentum_decay=0.5, second_moment_decay=0.5, adaptivity=1.0)
    >>> state = strategy.init({"w": torch.tensor([0.0])})
    >>> after = strategy.aggregate(state, [Update("north", 1, {"w": torch.tensor([3.0])}, weight=1)])
    >>> after.slots["second_moment"]["w"], after.weights["w"]
    (tensor([5.]), tensor([0.4635]))
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "none"

    server_learning_rate: float = 0.01
    momentum_decay: float = 0.9
    second_moment_decay: float = 0.99
    adaptivity: float = 1e-3
    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        _require(self)
        require_decay("second_moment_decay", self.second_moment_decay)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`."""
        return _init(self, weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask for plain local training."""
        return {}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`."""
        return server_step(state, weighted_mean(updates, self.weighting), self._rule)

    def _rule(self, delta: Tensor, slots: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return step and slots of one entry."""
        decay = self.second_moment_decay
        return _step(self, delta, slots["momentum"], decay * slots["second_moment"] + (1 - decay) * delta**2)


@dataclass(frozen=True)
class FedYogi:
    r"""Server Yogi: :math:`v_t = v_{t-1} - (1 - \beta_2) \Delta_t^2 \operatorname{sign}(v_{t-1} - \Delta_t^2)`.

    The module has the rest of the algorithm. Unlike Adam's, this second moment falls slowly, by at most
    :math:`(1 - \beta_2) \Delta_t^2` a round, when the changes become small.

    Args:
        server_learning_rate: :math:`\eta`, above 0. The paper finds it by a grid for each task.
        momentum_decay: :math:`\beta_1`, in [0, 1).
        second_moment_decay: :math:`\beta_2`, in [0, 1).
        adaptivity: :math:`\tau`, above 0, as in `FedAdagrad`.
        weighting: ``samples`` or ``uniform``.

    Guarantees:
        As `FedAdam`: it subtracts only where :math:`\Delta_t^2 < v_{t-1}`, so :math:`v_t \ge 0`.

    Reference:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2, option FedYogi.

    >>> strategy = FedYogi(server_learning_rate=1.0, momentum_decay=0.5, second_moment_decay=0.5, adaptivity=2.0)
    >>> state = strategy.init({"w": torch.tensor([0.0])})
    >>> after = strategy.aggregate(state, [Update("north", 1, {"w": torch.tensor([1.0])}, weight=1)])
    >>> after.slots["second_moment"]["w"], after.weights["w"]
    (tensor([3.5000]), tensor([0.1292]))
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal] = "none"

    server_learning_rate: float = 0.01
    momentum_decay: float = 0.9
    second_moment_decay: float = 0.99
    adaptivity: float = 1e-3
    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        _require(self)
        require_decay("second_moment_decay", self.second_moment_decay)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`."""
        return _init(self, weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask for plain local training."""
        return {}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`."""
        return server_step(state, weighted_mean(updates, self.weighting), self._rule)

    def _rule(self, delta: Tensor, slots: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return step and slots of one entry."""
        before, square = slots["second_moment"], delta**2
        after = before - (1 - self.second_moment_decay) * square * torch.sign(before - square)
        return _step(self, delta, slots["momentum"], after)


_Adaptive = FedAdagrad | FedAdam | FedYogi


def _require(strategy: _Adaptive) -> None:
    """Check the hyper-parameters that all three have."""
    require_positive("server_learning_rate", strategy.server_learning_rate)
    require_decay("momentum_decay", strategy.momentum_decay)
    require_positive("adaptivity", strategy.adaptivity)
    require_weighting(strategy.weighting)


def _init(strategy: _Adaptive, weights: Mapping[str, Tensor], statistics: frozenset[str]) -> ServerState:
    """Return the first state: m is 0, v is tau squared."""
    state = first_state(weights, statistics)
    slots = {"momentum": slot_like(state, 0.0), "second_moment": slot_like(state, strategy.adaptivity**2)}
    return replace(state, slots=slots)


def _step(
    strategy: _Adaptive, delta: Tensor, momentum: Tensor, second_moment: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the step of one entry, and its slots after it; `momentum` is that before it."""
    decay = strategy.momentum_decay
    momentum = decay * momentum + (1 - decay) * delta
    step = strategy.server_learning_rate * momentum / (second_moment.sqrt() + strategy.adaptivity)
    return step, {"momentum": momentum, "second_moment": second_moment}
