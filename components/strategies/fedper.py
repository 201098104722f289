"""Federated averaging of all but the output layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from components.strategies.base import Personal
from components.strategies.personal import PersonalAveraging


@dataclass(frozen=True)
class FedPer(PersonalAveraging):
    r"""Each site keeps its own output layers; the layers below them are averaged as in `FedAvg`.

    .. math::
        w_{t+1, l} = \sum_k \frac{n_k}{n} w_{t+1, l}^k \quad \text{for every layer } l
        \text{ that is not an output layer}

    For hospitals that agree on what matters of a patient, and not on what follows from it. Which layers are output
    layers the networks of `models` say themselves; told by the instruction ``personal``, the sites leave them out of
    their updates. Both parts are trained together, in every local step.

    Args:
        weighting: ``samples`` or ``uniform``.

    Guarantees:
        The global model keeps the initial values of the output layers. So the global model alone is nobody's: a site
        evaluates, tests and scores with its own output layers over it, and a new site has to train its own first.

    Reference:
        Arivazhagan, Aggarwal, Singh, Choudhary, Federated Learning with Personalization Layers, arXiv 1912.00818,
        algorithms 1 and 2, with one personal layer.

    >>> import torch
    >>> from components.rounds import Update
    >>> state = FedPer().init({"below": torch.zeros(1), "output": torch.ones(1)})
    >>> north = Update("north", 1, {"below": torch.tensor([4.0])}, weight=10)
    >>> FedPer().aggregate(state, [north]).weights
    {'below': tensor([4.]), 'output': tensor([1.])}
    """

    personal: ClassVar[Personal] = "output"
