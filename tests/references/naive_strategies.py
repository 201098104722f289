"""The server halves again, as naively as possible: NumPy, float64, all updates in one array per entry."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]
Slots = dict[str, Array]


def mean(updates: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    """Weighted mean over the first axis of a list of dicts of arrays."""
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    return {
        name: np.tensordot(shares, np.stack([update[name].astype(np.float64) for update in updates]), axes=1)
        for name in updates[0]
    }


def fedavgm(x: Array, slots: Slots, delta: Array, *, eta: float, beta: float) -> tuple[Array, Slots]:
    v = beta * slots["momentum"] + delta
    return x + eta * v, {"momentum": v}


def fedopt(
    x: Array, slots: Slots, delta: Array, *, kind: str, eta: float, beta_1: float, beta_2: float, tau: float
) -> tuple[Array, Slots]:
    """Reddi et al. 2021, algorithm 2, the lines of the server, for one entry."""
    m = beta_1 * slots["momentum"] + (1 - beta_1) * delta
    v = slots["second_moment"]
    if kind == "FedAdagrad":
        v = v + delta**2
    if kind == "FedYogi":
        v = np.where(v > delta**2, v - (1 - beta_2) * delta**2, np.where(v < delta**2, v + (1 - beta_2) * delta**2, v))
    if kind == "FedAdam":
        v = beta_2 * v + (1 - beta_2) * delta**2
    return x + eta * m / (np.sqrt(v) + tau), {"momentum": m, "second_moment": v}


def train(
    x: Arrays,
    rounds: Sequence[tuple[Sequence[Arrays], Sequence[float]]],
    *,
    step: Callable[[Array, Slots, Array], tuple[Array, Slots]],
    start: Mapping[str, float],
) -> Arrays:
    """Run `step` on each entry for all rounds; each round is (updates, weights)."""
    slots = {name: {slot: np.full_like(value, begin) for slot, begin in start.items()} for name, value in x.items()}
    for updates, weights in rounds:
        target = mean(updates, weights)
        for name in x:
            x[name], slots[name] = step(x[name], slots[name], target[name] - x[name])
    return x
