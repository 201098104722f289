"""The server halves again, as naively as possible: NumPy, float64, all updates in one array per entry."""

import numpy as np


def mean(updates, weights):
    """Weighted mean over the first axis of a list of dicts of arrays."""
    shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    return {
        name: np.tensordot(shares, np.stack([update[name].astype(np.float64) for update in updates]), axes=1)
        for name in updates[0]
    }


def fedavgm(x, slots, delta, *, eta, beta):
    v = beta * slots["momentum"] + delta
    return x + eta * v, {"momentum": v}


def fedopt(x, slots, delta, *, kind, eta, beta_1, beta_2, tau):
    """Reddi et al. 2021, algorithm 2, lines 10 to 14, for one entry."""
    m = beta_1 * slots["momentum"] + (1 - beta_1) * delta
    v = slots["second_moment"]
    if kind == "FedAdagrad":
        v = v + delta**2
    if kind == "FedYogi":
        v = np.where(v > delta**2, v - (1 - beta_2) * delta**2, np.where(v < delta**2, v + (1 - beta_2) * delta**2, v))
    if kind == "FedAdam":
        v = beta_2 * v + (1 - beta_2) * delta**2
    return x + eta * m / (np.sqrt(v) + tau), {"momentum": m, "second_moment": v}


def train(x, rounds, *, step, start):
    """Run `step` on each entry for all rounds; each round is (updates, weights)."""
    slots = {name: {slot: np.full_like(value, begin) for slot, begin in start.items()} for name, value in x.items()}
    for updates, weights in rounds:
        target = mean(updates, weights)
        for name in x:
            x[name], slots[name] = step(x[name], slots[name], target[name] - x[name])
    return x
