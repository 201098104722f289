"""Federated learning again, as naively as possible: torch alone, one loop, no component of ours.

A site is a tuple (images, labels, orders): ``orders[round - 1]`` is the list of index tensors that the site's
batches of that round are made of. All sites train all rounds; every network is a copy.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Site = tuple[Tensor, Tensor, Sequence[Sequence[Tensor]]]


def train_locally(
    network: nn.Module, site: Site, number: int, *, lr: float, momentum: float, mu: float = 0.0
) -> dict[str, Tensor]:
    images, labels, orders = site
    base = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
    for rows in orders[number - 1]:
        loss = F.binary_cross_entropy_with_logits(network(images[rows]), labels[rows].float()[:, None])
        drift = sum(((p - b) ** 2).sum() for p, b in zip(network.parameters(), base, strict=True))
        optimizer.zero_grad()
        (loss + mu / 2 * drift if mu else loss).backward()
        optimizer.step()
    return {name: value for name, value in network.state_dict().items() if value.is_floating_point()}


def federate(
    network: nn.Module, sites: Mapping[str, Site], rounds: int, *, strategy: str, lr: float, momentum: float, **how: Any
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    x = {name: value.clone() for name, value in network.state_dict().items() if value.is_floating_point()}
    norm = {
        f"{m}.{k}" for m, layer in network.named_modules() for k in layer.state_dict() if "Norm" in str(type(layer))
    }
    linear = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    last = {f"{linear[-1]}.weight", f"{linear[-1]}.bias"}
    own = {"FedBN": norm, "FedPer": last}.get(strategy, set())
    own_at: dict[str, dict[str, Tensor]] = {site: {} for site in sites}
    m = {name: torch.zeros_like(value) for name, value in x.items()}
    v = {name: torch.full_like(value, how.get("tau", 0.0) ** 2) for name, value in x.items()}
    for number in range(1, rounds + 1):
        total, mean = 0, {name: torch.zeros_like(value, dtype=torch.float64) for name, value in x.items()}
        for name, site in sorted(sites.items()):
            local = deepcopy(network)
            local.load_state_dict({**x, **own_at[name]}, strict=False)
            trained = train_locally(local, site, number, lr=lr, momentum=momentum, mu=how.get("mu", 0.0))
            own_at[name] = {entry: trained[entry].clone() for entry in own & trained.keys()}
            total += len(site[1])
            mean = {entry: value + len(site[1]) * trained[entry].double() for entry, value in mean.items()}
        for entry, value in mean.items():
            delta = value / total - x[entry].double()
            if strategy == "FedAdam" and "running" not in entry:
                m[entry] = (how["beta_1"] * m[entry].double() + (1 - how["beta_1"]) * delta).float()
                v[entry] = (how["beta_2"] * v[entry].double() + (1 - how["beta_2"]) * delta**2).float()
                x[entry] = (x[entry] + how["eta"] * m[entry].double() / (v[entry].double().sqrt() + how["tau"])).float()
            elif entry not in own:
                x[entry] = (value / total).float()
    return x, own_at
