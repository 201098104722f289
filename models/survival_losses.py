r"""Losses of times until an event, each item's own, so that sums of sites add up.

Labels are [N, 2]: the time, and 1 if the event was seen then, 0 if observation ended without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

Ties = Literal["efron", "breslow"]


def cox_losses(scores: Tensor, labels: Tensor, ties: Ties = "efron") -> Tensor:
    r"""Return each item's part of the negative logarithm of Cox's partial likelihood, among these items.

    With scores :math:`\eta_i`, the :math:`d` events :math:`D` at one time and :math:`R` all who are still observed,
    the events' parts add up to

    .. math:: -\sum_{i \in D} \eta_i + \sum_{l=0}^{d-1} \log\Big(\sum_{j \in R} e^{\eta_j}
              - \frac{l}{d} \sum_{j \in D} e^{\eta_j}\Big) \quad\text{(Efron; Breslow without the second sum)}

    and what is censored has 0. The sum over sites is the likelihood stratified by site.

    Args:
        scores: [N], logarithms of relative hazards.
        labels: [N, 2] times and events.
        ties: How events at one time are counted.

    Returns:
        [N].

    References:
        Cox (1972), J R Stat Soc B 34; Breslow (1974), Biometrics 30; Efron (1977), JASA 72.

    >>> labels = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0]])
    >>> cox_losses(torch.zeros(3), labels).exp()
    tensor([3., 2., 1.])
    """
    order = torch.argsort(labels[:, 0], descending=True, stable=True)
    score, time, event = scores[order], labels[order, 0], labels[order, 1]
    largest = score.detach().max() if len(score) else score.sum()
    weight = (score - largest).exp()
    _, place, sizes = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    last = sizes.cumsum(0) - 1  # the last of each time: all of one time are at risk together
    at_risk = weight.cumsum(0)[last][place]
    if ties == "efron":
        deaths = _by_group(event, place, sizes)
        dying = _by_group(event * weight, place, sizes)
        before = event.cumsum(0) - event  # events that come earlier in this order
        rank = before - (deaths.cumsum(0) - deaths)[place]
        at_risk = at_risk - torch.where(event > 0, rank / deaths.clamp(min=1)[place], 0.0) * dying[place]
    at_risk = at_risk.clamp(min=torch.finfo(at_risk.dtype).tiny)  # of scores that are hundreds apart
    losses = event * (at_risk.log() + largest - score)
    return torch.zeros_like(losses).index_put((order,), losses)


def hazard_losses(logits: Tensor, labels: Tensor, edges: Sequence[float]) -> Tensor:
    r"""Return each item's negative log-likelihood of discrete-time hazards.

    With hazards :math:`h_j = \sigma(\text{logit}_j)` of the cells of a grid, an event in cell :math:`e` has
    :math:`-\log h_e - \sum_{j<e} \log(1 - h_j)`; what is censored, the sum over the cells of which it saw the middle.

    Args:
        logits: [N, J].
        labels: [N, 2] times and events; an event beyond the last edge was not seen on the grid.
        edges: Upper edges of the J cells, rising; a time at an edge belongs to the cell that it ends.

    Returns:
        [N].

    Reference:
        Gensheimer, Narasimhan (2019), A scalable discrete-time survival model for neural networks, PeerJ 7:e6257.

    >>> (-hazard_losses(torch.zeros(2, 3), torch.tensor([[1.5, 1.0], [2.6, 0.0]]), [1.0, 2.0, 3.0])).exp()
    tensor([0.2500, 0.1250])
    """
    upper = torch.tensor(edges, dtype=labels.dtype, device=labels.device)
    lower = F.pad(upper[:-1], (1, 0))
    time, event = labels[:, :1], labels[:, 1:]
    died = (event > 0) & (time > lower) & (time <= upper)
    died[:, 0] |= (event[:, 0] > 0) & (labels[:, 0] <= lower[0])
    survived = torch.where(event > 0, time > upper, time >= (lower + upper) / 2)
    return F.softplus(-logits).mul(died).sum(1) + F.softplus(logits).mul(survived).sum(1)


def _by_group(values: Tensor, place: Tensor, sizes: Tensor) -> Tensor:
    """Return the sum of the values of each group."""
    return torch.zeros(len(sizes), dtype=values.dtype, device=values.device).index_add(0, place, values)
