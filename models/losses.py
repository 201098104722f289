"""Loss functions per item, and the weights that make rare classes count as much as frequent ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

FOCAL_GAMMA = 2.0  # the value Lin et al. found best


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return the cross-entropy of each item and decision, in nats.

    Args:
        logits: [N, 1] for binary, [N, C] for multiclass and multilabel.
        labels: int64 [N] for binary and multiclass; float32 [N, C] of 0 and 1 for multilabel.

    Returns:
        [N, 1] for binary and multiclass; [N, C] for multilabel, one column per decision.

    >>> cross_entropy(torch.zeros(1, 1), torch.tensor([1])).item()  # ln 2
    0.6931471824645996
    """
    losses = _reduced(logits, labels, "none")
    return losses if losses.dim() == 2 else losses.unsqueeze(1)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of `cross_entropy`, by torch's own reduction: bit for bit what a plain loop has.

    >>> mean_cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1])).item()  # ln 2
    0.6931471824645996
    """
    return _reduced(logits, labels, "mean")


def focal(logits: Tensor, labels: Tensor, *, gamma: float = FOCAL_GAMMA) -> Tensor:
    r"""Return the focal loss :math:`(1 - p_t)^\gamma \cdot -\log p_t` of each item and output.

    Args:
        logits: As for `cross_entropy`.
        labels: As for `cross_entropy`.
        gamma: How strongly items that are already right are faded out; 0 is the cross-entropy.

    Returns:
        The shape of `cross_entropy`.

    Reference:
        Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4 (no class weights).

    >>> round(focal(torch.zeros(1, 1), torch.tensor([1])).item(), 6)  # ln 2 / 4
    0.173287
    """
    entropy = cross_entropy(logits, labels)
    # -log p_t is the entropy itself, so 1 - p_t = 1 - exp(-entropy); expm1 keeps small values exact.
    return (-torch.expm1(-entropy)).pow(gamma) * entropy


def class_weights(counts: Sequence[int], items: int, *, independent: bool) -> Tensor:
    r"""Return the weight of an item of a class, and of one that is not of it, by inverse frequency.

    Classes that exclude each other: :math:`n / (C \cdot n_c)`. Independent labels, and each on its own:
    :math:`n / (2 n_c)` for items that have it and :math:`n / (2 (n - n_c))` for those that do not. The
    weights of a site's items add up to their number, so the loss keeps its scale and the learning rate
    its meaning. A class nobody has gets 1: no item carries the weight.

    Args:
        counts: Items per class.
        items: Number of items.
        independent: Whether an item can have several classes.

    Returns:
        float32 [2, C]: row 1 for items of the class, row 0 for the others (ones, if classes exclude
        each other).

    Raises:
        ValueError: If a count is negative or above the number of items.

    >>> class_weights([30, 10], 40, independent=False)[1].tolist()
    [0.6666666865348816, 2.0]
    """
    if any(not 0 <= count <= items for count in counts):
        raise ValueError(f"class counts must be from 0 to the number of items, {items}, given {list(counts)}")
    having = torch.tensor(counts, dtype=torch.float64)
    groups = 2 if independent else len(counts)
    inverse = [items / (groups * number) for number in (items - having, having)]
    weights = torch.stack([torch.where(torch.isfinite(part), part, torch.ones_like(part)) for part in inverse])
    if not independent:
        weights[0] = 1.0
    return weights.float()


def weighted(losses: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weight each loss by the frequency of its item's class.

    Args:
        losses: As `cross_entropy` returns them.
        labels: As for `cross_entropy`.
        weights: As `class_weights` returns them, [2, C].

    Returns:
        The shape of `losses`.
    """
    if labels.is_floating_point():
        return losses * torch.where(labels > 0.5, weights[1], weights[0])
    return losses * weights[1][labels].unsqueeze(1)


def _reduced(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    """Call torch's cross-entropy that fits the labels."""
    if labels.is_floating_point() or logits.shape[1] == 1:
        targets = labels.reshape(logits.shape).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction=reduction)
    return F.cross_entropy(logits, labels, reduction=reduction)
