"""One step of a server optimiser: the mean of the updates, seen as a gradient of the global model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from components.rounds import ServerState
from components.strategies.base import averaged_weights, require_all_entries
from components.weights import WeightedMean, Weights

# Of one entry, all in double precision: the pseudo-gradient and the slots by name -> the step that is added
# to the weights, and the new slots.
Rule = Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


def slot_like(state: ServerState, value: float) -> Weights:
    """Return a slot filled with `value`: one entry for each trained entry of `state`.

    Slots are float32, or float64 for float64 weights; never a half precision, in which a slow average
    stands still. They are rounded to it after every step, whether or not the state is written to disk in
    between, so a training that is resumed continues bit for bit.
    """
    trained = {name: tensor for name, tensor in state.weights.items() if name not in state.statistics}
    return {
        name: torch.full_like(tensor, value, dtype=torch.promote_types(tensor.dtype, torch.float32))
        for name, tensor in trained.items()
    }


def server_step(state: ServerState, mean: WeightedMean, rule: Rule) -> ServerState:
    r"""Return the state after one step along the pseudo-gradient :math:`\Delta_t = \bar w_{t+1} - w_t`.

    Args:
        state: The state the sites started from, with the slots that `rule` reads.
        mean: The mean of the sites' weights. It is used before it is rounded to the weights' dtype.
        rule: The optimiser, applied to each trained entry by itself.

    Guarantees:
        Entries that are statistics become their plain mean. An optimiser has no business with them: it can
        carry a running variance below zero.

    Raises:
        ValueError: If the entries of `mean` are not exactly those of the state.
    """
    require_all_entries(state, mean)
    weights = averaged_weights(state, mean)
    slots: dict[str, Weights] = {slot: {} for slot in state.slots}
    for name in sorted(state.weights.keys() - state.statistics):
        base = state.weights[name]
        before = {slot: values[name].double() for slot, values in state.slots.items()}
        step, after = rule(mean.entry(name) - base.double(), before)
        weights[name] = (base.double() + step).to(base.dtype)
        for slot, value in after.items():
            slots[slot][name] = value.to(state.slots[slot][name].dtype)
    return replace(state, round=state.round + 1, step=state.step + 1, weights=weights, slots=slots)
