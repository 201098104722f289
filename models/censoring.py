r"""What is known of restricted survival where patients are censored: the time lived, and what each patient counts for.

Of a patient who is censored before the horizon :math:`h` nobody knows how much of the time until it he lived, so he
counts for nothing, and the others for those who were besides: :math:`w = \delta / \hat G(\min(T, h)^-)`, where
:math:`\delta` says whether :math:`\min(T, h)` was seen, and :math:`\hat G` is the chance of not being censored (inverse
probability of censoring weighting; Robins, Finkelstein 2000). It takes who is censored for chance alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RAREST = (
    0.1  # a smaller chance of not being censored counts as this: nobody stands for more than ten, as where it is judged
)


@dataclass(frozen=True)
class Censoring:
    """A Kaplan-Meier curve of not being censored; what happens to patients comes before what is censored at that time.

    Attributes:
        times: Times at which somebody was censored, rising, float64 [C].
        chances: The curve from each of them on, float64 [C].
    """

    times: Tensor
    chances: Tensor

    def before(self, times: Tensor) -> Tensor:
        """Return the chance of not being censored before some times, [N]."""
        edges, time = self.times.to(times.device), times.to(self.times.dtype).contiguous()
        chances = torch.cat([torch.ones(1, dtype=self.chances.dtype), self.chances.cpu()]).to(times.device)
        return chances[torch.searchsorted(edges, time, side="left")]


def censoring_of(labels: Tensor) -> Censoring:
    """Return the curve of some patients.

    Args:
        labels: [N, 2] times and events.

    >>> censoring_of(torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])).chances
    tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    time, event = labels[:, 0].double(), labels[:, 1] > 0
    times, counts = torch.unique(time[~event], return_counts=True)
    at_risk = (time > times.unsqueeze(1)).sum(dim=1) + counts
    return Censoring(times, torch.cumprod(1 - counts.double() / at_risk, dim=0))


def lived(labels: Tensor, until: float, censoring: Censoring) -> tuple[Tensor, Tensor]:
    """Return the part of the time until a horizon that each patient lived, and what he counts for, each [N].

    Args:
        labels: [N, 2] times and events.
        until: The horizon.
        censoring: The curve of these patients, or of those they belong to.

    >>> labels = torch.tensor([[1.0, 0.0], [2.0, 1.0], [5.0, 0.0]])
    >>> [part.tolist() for part in lived(labels, 4.0, censoring_of(labels))]
    [[0.25, 0.5, 1.0], [0.0, 1.5, 1.5]]
    """
    time = labels[:, 0].clamp(max=until)
    known = (labels[:, 1] > 0) | (labels[:, 0] >= until)
    weight = known / censoring.before(time).clamp(min=RAREST)
    return time / until, weight.to(labels.dtype)
