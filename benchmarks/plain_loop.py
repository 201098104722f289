"""Federated averaging as a plain PyTorch loop: what our training is measured against.

Run as ``python -m benchmarks.plain_loop JOB.json``, a file of `benchmarks.job.write_plain_job`. One process,
one torch thread, nothing recorded. It imports none of our code, so that none of our costs are in it; it prints one line
of JSON.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets.densenet import DenseNet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.commands import high_water_mark


@dataclass
class Clock:
    """When things happened, seconds since 1970."""

    first_step: float = 0.0
    rounds: list[float] = field(default_factory=list)


def main(path: str) -> None:
    """Run the job of a file and print what it took."""
    torch.set_num_threads(1)
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    images, labels = read_items(job["npz"], job["window"])
    rows = load_file(job["rows"])
    network = DenseNet(2, 1, 1, **job["network"])
    network.load_state_dict(load_file(job["start"]))
    if job["channels_last"]:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    clock = Clock()
    values: list[float] = []
    kept: dict[str, Tensor] = {}
    for number in range(1, job["rounds"] + 1):
        federated_round(network, images, labels, {s: rows[f"{s}/{number}"] for s in job["sites"]}, job=job, clock=clock)
        values.append(validate(network, images, labels, [rows[f"{s}/validation"] for s in job["sites"]], job))
        clock.rounds.append(time.time())
        kept = kept or copy.deepcopy(network.state_dict())
    save_file({name: value.contiguous() for name, value in kept.items()}, job["after_round_1"])
    print(json.dumps({"first_step": clock.first_step, "rounds": clock.rounds, "validation_auroc": values,
                      "peak_bytes": high_water_mark()}))  # fmt: skip


def read_items(path: str, window: list[float]) -> tuple[Tensor, Tensor]:
    """Return all images [N, 1, H, W] in [0, 1] and labels [N] of an npz file: training, validation, test."""
    low, high = window
    with np.load(path, allow_pickle=False) as file:
        images = np.concatenate([file[f"{part}_images"] for part in ("train", "val", "test")])
        labels = np.concatenate([file[f"{part}_labels"] for part in ("train", "val", "test")])
    return (torch.from_numpy(images).float()[:, None] - low) / (high - low), torch.from_numpy(labels).float()[:, 0]


def federated_round(
    network: nn.Module, images: Tensor, labels: Tensor, orders: dict[str, Tensor], *, job: dict[str, Any], clock: Clock
) -> None:
    """Train at each site from the same weights and average by samples, in double precision."""
    start = copy.deepcopy(network.state_dict())
    total = sum(len(order) for order in orders.values())
    mean = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
    for order in orders.values():
        network.load_state_dict(start)
        train(network, images, labels, order, job=job, clock=clock)
        for name, value in network.state_dict().items():
            mean[name] += value.double() * len(order)
    network.load_state_dict({name: (value / total).to(start[name].dtype) for name, value in mean.items()})


def train(
    network: nn.Module, images: Tensor, labels: Tensor, order: Tensor, *, job: dict[str, Any], clock: Clock
) -> None:
    """Take one epoch of SGD over rows in their order."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=job["learning_rate"], momentum=job["momentum"])
    for batch in torch.split(order, job["batch_size"]):
        loss = functional.binary_cross_entropy_with_logits(network(images[batch]), labels[batch][:, None])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        clock.first_step = clock.first_step or time.time()


@torch.no_grad()
def validate(network: nn.Module, images: Tensor, labels: Tensor, sites: list[Tensor], job: dict[str, Any]) -> float:
    """Return the AUROC over the validation items of all sites."""
    network.eval()
    scores, truth = [], []
    for rows in sites:
        for batch in torch.split(rows, job["evaluation_batch_size"]):
            scores.append(torch.sigmoid(network(images[batch])))
            truth.append(labels[batch])
    return auroc(torch.cat(scores).double().numpy().ravel(), torch.cat(truth).numpy() > 0)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive item has the higher score (a tie counts half)."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    ups, downs = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - ups * (ups + 1) / 2) / (ups * downs))


if __name__ == "__main__":
    main(sys.argv[1])
