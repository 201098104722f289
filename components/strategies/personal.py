"""What strategies have in common that leave a part of the network at each site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from components.rounds import ServerState, Update
from components.strategies.base import Instructions, Personal, Weighting, averaged_weights, first_state, weighted_mean
from components.strategies.hyperparameters import require_weighting
from components.weights import WeightedMean


@dataclass(frozen=True)
class PersonalAveraging:
    """Federated averaging of all entries but those that `personal` names, which keep their initial values.

    Args:
        weighting: ``samples`` or ``uniform``.
    """

    needs: ClassVar[Literal["sum", "each"]] = "sum"
    personal: ClassVar[Personal]

    weighting: Weighting = "samples"

    def __post_init__(self) -> None:
        require_weighting(self.weighting)

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """See `Strategy.init`."""
        return first_state(weights, statistics)

    def instructions(self, state: ServerState) -> Instructions:
        """Ask the sites to keep their own entries."""
        return {"personal": self.personal}

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """See `Strategy.aggregate`.

        Raises:
            ValueError: If there is no update, the updates differ in their entries, or hold what must not leave a site.
        """
        mean = weighted_mean(updates, self.weighting)
        self.check(state, mean)
        return replace(state, round=state.round + 1, weights=averaged_weights(state, mean))

    def check(self, state: ServerState, mean: WeightedMean) -> None:
        """Refuse what must not have left a site, where the sum of the updates shows it."""
