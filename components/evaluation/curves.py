"""What a pair of histograms says about ranking: the ROC curve, its area, average precision.

Every function takes two histograms of the same bins, of the scores of the items that have a class and of
those that do not, and gives exactly what it would give for scores rounded down to the edges of the bins.
"""

from __future__ import annotations

import math

import numpy as np

from components.evaluation.histograms import Floats, Integers
from components.evaluation.intervals import Outcome, Undefined, bounded, estimate


def roc_points(positives: Integers, negatives: Integers) -> tuple[Floats, Floats]:
    """Return the ROC curve, from (0, 0) to (1, 1).

    Args:
        positives: [bins] counts of the items that have the class, one at least.
        negatives: [bins] counts of the others, one at least.

    Returns:
        False-positive and true-positive rate, each [bins + 1], with the threshold falling from bin to bin.

    >>> [rates.tolist() for rates in roc_points(np.array([0, 1]), np.array([1, 1]))]
    [[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]]
    """
    false = np.concatenate([[0], np.cumsum(negatives[::-1])]) / negatives.sum()
    true = np.concatenate([[0], np.cumsum(positives[::-1])]) / positives.sum()
    return false, true


def auroc(positives: Integers, negatives: Integers) -> Outcome:
    r"""Return the area under the ROC curve with DeLong's interval.

    A pair of a positive and a negative item in the same bin counts one half, which is the trapezoidal
    rule. From each bin come the placements V10 (share of negatives below, plus half of those beside) and
    V01 (share of positives above, plus half of those beside), and

    .. math:: A = \frac1m \sum_b p_b V_{10,b},\qquad
              \mathrm{Var}\,A = \frac{S_{10}}{m} + \frac{S_{01}}{n}

    with S the variances of the placements. The interval is taken on the logit scale. Where the placements
    do not vary, it is Wilson's with min(m, n) items, as Var A <= A(1 - A) / min(m, n) always.

    Args:
        positives: [bins] counts of the items that have the class.
        negatives: [bins] counts of the others.

    Returns:
        The area; support is the number of items. `Undefined` where there are no positives or no negatives.
        It differs from the area of the exact scores by half of `tie_mass` at the most.

    Reference:
        DeLong, DeLong, Clarke-Pearson (1988), Biometrics 44; placements of tied scores by mid-ranks as in
        Sun, Xu (2014), IEEE Signal Processing Letters 21; the bound of the variance: Birnbaum, Klose (1957).

    >>> result = auroc(np.array([0, 1, 1]), np.array([1, 1, 0]))
    >>> (result.value, result.support)
    (0.875, 4)
    """
    m, n = int(positives.sum()), int(negatives.sum())
    if m == 0 or n == 0:
        return one_class_only(m)
    below = (np.cumsum(negatives) - negatives / 2) / n
    above = (m - np.cumsum(positives) + positives / 2) / m
    value = float(positives @ below) / m
    variance = _placement_variance(positives, below, value) + _placement_variance(negatives, above, value)
    interval = bounded(value, math.sqrt(variance), effective_items=min(m, n))
    return estimate(value, interval, m + n)


def tie_mass(positives: Integers, negatives: Integers) -> float:
    """Return the share of (positive, negative) pairs that fall into one bin: the price of the resolution.

    >>> tie_mass(np.array([0, 1, 1]), np.array([1, 1, 0]))
    0.25
    """
    return float(positives @ negatives) / max(1.0, float(positives.sum()) * float(negatives.sum()))


def average_precision(positives: Integers, negatives: Integers) -> Outcome:
    r"""Return the average precision with an interval by the infinitesimal jackknife.

    .. math:: AP = \sum_b \frac{p_b}{m} \frac{T_b}{T_b + F_b}

    with T and F the positives and negatives in bin b and above. AP is a smooth function of the counts, so
    its variance is the sum over items of the squared derivative by the item's weight; the prevalence is
    taken as sampled too. The interval is on the logit scale; without a spread it is Wilson's with m items.

    Args:
        positives: [bins] counts of the items that have the class.
        negatives: [bins] counts of the others.

    Returns:
        Average precision (not interpolated); support is the number of items. `Undefined` where there are no
        positives or no negatives.

    Reference:
        Efron (1982), The jackknife, the bootstrap and other resampling plans, chapter 6; Boyd, Eng, Page
        (2013), Area under the precision-recall curve, for the logit scale.

    >>> round(average_precision(np.array([0, 1, 1]), np.array([1, 1, 0])).value, 4)
    0.8333
    """
    m, n = int(positives.sum()), int(negatives.sum())
    if m == 0 or n == 0:
        return one_class_only(m)
    true, false = _at_or_above(positives), _at_or_above(negatives)
    flagged = np.maximum(true + false, 1)
    precision = true / flagged
    value = float(positives @ precision) / m
    by_positive = (precision - value + np.cumsum(positives * false / flagged**2)) / m
    by_negative = -np.cumsum(positives * true / flagged**2) / m
    variance = float(positives @ by_positive**2 + negatives @ by_negative**2)
    return estimate(value, bounded(value, math.sqrt(variance), effective_items=m), m + n)


def one_class_only(positives: int) -> Undefined:
    """Say why a ranking is not defined where all items are of one class."""
    return Undefined("no item has the class" if positives == 0 else "every item has the class")


def _placement_variance(counts: Integers, placements: Floats, mean: float) -> float:
    """Return the variance of the mean placement of one group; 0 for a group of one."""
    total = int(counts.sum())
    return float(counts @ (placements - mean) ** 2) / max(total - 1, 1) / total if total > 1 else 0.0


def _at_or_above(counts: Integers) -> Integers:
    """Count the items in each bin and above it."""
    return np.cumsum(counts[::-1])[::-1]
