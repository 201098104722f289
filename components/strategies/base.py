"""What every strategy is, and the arithmetic that several of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from components.rounds import ServerState, Update
from components.weights import WeightedMean, Weights

Weighting = Literal["samples", "uniform"]
Personal = Literal["none", "normalisation", "output"]
Instructions = dict[str, float | str | bool]


@runtime_checkable
class Strategy(Protocol):
    """A federated algorithm, seen from the server: three pure methods over records.

    A strategy is a frozen dataclass whose fields are its hyper-parameters. It never chooses sites, averages
    metrics, logs, or sees a file.

    Attributes:
        needs: ``sum`` if the weighted sum of the updates is enough, ``each`` if every update must be seen.
        personal: Which entries stay at the sites: ``none``, those of ``normalisation`` layers, or those of the
            ``output`` layers.
    """

    needs: ClassVar[Literal["sum", "each"]]
    personal: ClassVar[Personal]

    def init(self, weights: Mapping[str, Tensor], statistics: frozenset[str] = frozenset()) -> ServerState:
        """Return the state before the first round.

        Args:
            weights: The exchanged floating-point entries of a freshly initialised model; copied.
            statistics: Names of those entries that are averages of data and not trained.

        Raises:
            ValueError: If there are no entries, one is not floating point, or a statistic is not among them.
        """
        ...

    def instructions(self, state: ServerState) -> Instructions:
        """Return what the sites are asked to do beyond plain local training, by name."""
        ...

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """Return the state after a round; neither `state` nor the updates are changed.

        Args:
            state: The state the sites started from.
            updates: What the sites sent, in ascending order of their names. Read once, one at a time.

        Raises:
            ValueError: If there is no update, or the updates do not belong together.
        """
        ...


def first_state(weights: Mapping[str, Tensor], statistics: frozenset[str]) -> ServerState:
    """Return a state without slots, holding copies of `weights`; see `Strategy.init`."""
    if not weights:
        raise ValueError("weights must have at least one entry, given none")
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise ValueError(f"weights must be floating point, entry {name!r} is {tensor.dtype}")
    unknown = sorted(statistics - weights.keys())
    if unknown:
        raise ValueError(f"statistics must be among the weights, given {unknown[:5]}")
    copies = {name: tensor.detach().clone() for name, tensor in weights.items()}
    return ServerState(round=0, step=0, weights=copies, statistics=frozenset(statistics))


def weighted_mean(updates: Iterable[Update], weighting: Weighting) -> WeightedMean:
    r"""Return :math:`\sum_k n_k w_k / \sum_k n_k`, with :math:`n_k` the samples, or 1 if `weighting` is uniform.

    Guarantees:
        Each update is let go before the next is asked for, so memory is that of one update and of the sum
        in double precision, however many sites there are. The order of the sum is that of site names, or
        there is no sum.

    Raises:
        ValueError: If there is no update, the updates do not come in the order of site names (a site that
            comes twice included), they are not all of one round, or as `WeightedMean.add`.
    """
    mean = WeightedMean()
    before: tuple[str, int] | None = None
    for update in updates:
        before = _next_place(before, update)
        mean.add(update.weights, update.weight if weighting == "samples" else 1.0)
        del update
    if not mean.names:
        raise ValueError("updates must hold at least one update with at least one entry, given none")
    return mean


def added(updates: Iterable[Update], name: str) -> Tensor:
    """Return the sum of one entry over the updates, in double precision; samples do not weigh.

    Raises:
        ValueError: If there is no update, they do not come in the order of site names or are not of one round, or one
            lacks the entry or has it in another shape.
    """
    total: Tensor | None = None
    before: tuple[str, int] | None = None
    for update in updates:
        before = _next_place(before, update)
        if name not in update.weights or (total is not None and update.weights[name].shape != total.shape):
            raise ValueError(f"the update of {update.site!r} has no entry {name!r} that can be added to the others'")
        own = update.weights[name].double()
        total = own.clone() if total is None else total.add_(own)
        del update
    if total is None:
        raise ValueError("updates must hold at least one update, given none")
    return total


def _next_place(before: tuple[str, int] | None, update: Update) -> tuple[str, int]:
    """Return site and round of `update`, refusing it if it cannot come after `before`."""
    if before is not None and update.site <= before[0]:
        raise ValueError(f"updates must come in the order of site names, {update.site!r} came after {before[0]!r}")
    if before is not None and update.round != before[1]:
        raise ValueError(f"updates must be of one round, {update.site!r} has {update.round}, not {before[1]}")
    return update.site, update.round


def averaged_weights(state: ServerState, mean: WeightedMean) -> Weights:
    """Return the entries of `mean` in the dtypes of `state`, and the entries of `state` that `mean` lacks.

    Raises:
        ValueError: If `mean` has an entry that `state` does not have, or of another shape.
    """
    unknown = sorted(mean.names - state.weights.keys())
    if unknown:
        raise ValueError(f"updates have entries that the global model does not have: {unknown[:5]}")
    weights = dict(state.weights)
    for name in mean.names:
        entry, base = mean.entry(name), state.weights[name]
        if entry.shape != base.shape:
            raise ValueError(f"entry {name!r} has shape {tuple(entry.shape)}, the global model {tuple(base.shape)}")
        weights[name] = entry.to(base.dtype)
    return weights


def require_all_entries(state: ServerState, mean: WeightedMean) -> None:
    """Refuse updates that lack entries.

    Raises:
        ValueError: If an entry of `state` is not in `mean`.
    """
    missing = sorted(state.weights.keys() - mean.names)
    if missing:
        raise ValueError(f"updates lack entries of the global model: {missing[:5]}")
