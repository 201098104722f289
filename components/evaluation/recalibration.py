r"""Calibration slope and intercept from histograms of scores, and the decision curve.

Both are functions of the summed histograms: of a bin, the items with and without the class and the mean of its scores
are known, and a score stands for the mean of its bin.
"""

from __future__ import annotations

import math

import numpy as np

from components.evaluation.curves import one_class_only
from components.evaluation.histograms import Floats, Integers
from components.evaluation.intervals import Outcome, Undefined, estimate, normal

STEPS = 50  # of Newton; ten are the rule
_FLAT = 1e14  # condition of a curvature that cannot be inverted
_SATURATED = "nearly all scores are 0 or 1"
_SMALLEST = 1e-6  # a score nearer to 0 or 1 counts as this near: its logit would else rule the line


def calibration_line(positives: Integers, negatives: Integers, mean_scores: Floats) -> tuple[Outcome, Outcome]:
    r"""Return slope and intercept of the scores' calibration, each with a normal interval from its information.

    The slope is :math:`b` of :math:`\mathrm{logit}\,P(y = 1) = a + b\,\mathrm{logit}\,s`, where 1 is right, below 1
    the scores are too extreme; the intercept is :math:`a` of the same with :math:`b = 1` (calibration in the large),
    where 0 is right and above 0 the scores are too low. Both by maximum likelihood.

    Args:
        positives: [bins] counts of the items that have the class.
        negatives: [bins] counts of the others.
        mean_scores: [bins] mean of the scores of each bin.

    Returns:
        Slope and intercept; `Undefined` where all items are of one class, all have one score, nearly all are 0 or 1, or
        the scores separate the classes.

    Reference:
        Cox (1958), Two further applications of a model for binary regression, Biometrika 45; Van Calster et al.
        (2016), A calibration hierarchy for risk models was defined, J Clin Epidemiol 74.
    """
    counts = positives + negatives
    kept = counts > 0
    items = int(counts.sum())
    if not positives.any() or not negatives.any():
        nothing = one_class_only(int(positives.sum()))
        return nothing, nothing
    scores = np.clip(mean_scores[kept], _SMALLEST, 1 - _SMALLEST)
    logits, having, total = np.log(scores / (1 - scores)), positives[kept], counts[kept]
    return _slope(logits, having, total, items), _intercept(logits, having, total, items)


def net_benefit(positives: Integers, negatives: Integers) -> tuple[Floats, Floats, Floats]:
    r"""Return the decision curve: what acting on a score is worth, in true positives a person.

    .. math:: NB(t) = \frac{TP(t)}{n} - \frac{FP(t)}{n}\,\frac{t}{1-t}

    Args:
        positives: [bins] counts of the items that have the class, one item at least in both together.
        negatives: [bins] counts of the others.

    Returns:
        Thresholds at the inner edges of the bins [bins - 1], the net benefit of treating who scores at or above, and
        that of treating everybody.

    Reference:
        Vickers, Elkin (2006), Decision curve analysis, Medical Decision Making 26.

    >>> [values.round(3).tolist() for values in net_benefit(np.array([0, 0, 1, 3]), np.array([4, 1, 1, 0]))]
    [[0.25, 0.5, 0.75], [0.333, 0.3, 0.3], [0.2, -0.2, -1.4]]
    """
    bins, items = len(positives), int(positives.sum() + negatives.sum())
    thresholds = np.arange(1, bins) / bins
    odds = thresholds / (1 - thresholds)
    true, false = (np.cumsum(counts[::-1])[::-1][1:] / items for counts in (positives, negatives))
    everybody = positives.sum() / items - negatives.sum() / items * odds
    return thresholds, true - false * odds, everybody


def _slope(logits: Floats, having: Integers, total: Integers, items: int) -> Outcome:
    """Fit both parameters by Newton; step lengths are halved where the likelihood would fall."""
    if np.ptp(logits) < 1e-9:
        return Undefined("all items have the same score")
    with_it, without = logits[having > 0], logits[having < total]
    if with_it.min() >= without.max() or with_it.max() <= without.min():
        return Undefined("the scores tell the classes apart without an error")
    design = np.stack([np.ones_like(logits), logits])
    line, information = np.array([0.0, 1.0]), np.eye(2)
    for _ in range(STEPS):
        chance = _expit(line @ design)
        gradient = design @ (having - total * chance)
        information = (design * (total * chance * (1 - chance))) @ design.T
        if not np.linalg.cond(information) < _FLAT:
            return Undefined(_SATURATED)
        step = np.linalg.solve(information, gradient)
        best, size = _likelihood(line @ design, having, total), 1.0
        while _likelihood((line + size * step) @ design, having, total) < best - 1e-12 * abs(best) and size > 1e-6:
            size /= 2
        line = line + size * step
        if float(np.abs(size * step).max()) < 1e-10:
            break
    if not np.linalg.cond(information) < _FLAT:
        return Undefined(_SATURATED)
    error = math.sqrt(float(np.linalg.inv(information)[1, 1]))
    return estimate(float(line[1]), normal(float(line[1]), error), items)


def _intercept(logits: Floats, having: Integers, total: Integers, items: int) -> Outcome:
    """Find the shift that makes as many expected as there are: the expected number rises with it, so by bisection."""
    low, high, wanted = -60.0, 60.0, float(having.sum())
    while high - low > 1e-12 * max(1.0, abs(low)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if float(total @ _expit(logits + middle)) < wanted else (low, middle)
    chance = _expit(logits + low)
    information = float(total @ (chance * (1 - chance)))
    if not information > 0:
        return Undefined(_SATURATED)
    return estimate(low, normal(low, 1 / math.sqrt(information)), items)


def _expit(logit: Floats) -> Floats:
    """Return the inverse of the logit, without overflow."""
    return 1 / (1 + np.exp(-np.clip(logit, -500, 500)))


def _likelihood(logits: Floats, having: Integers, total: Integers) -> float:
    """Return the log-likelihood of counts."""
    return float(having @ logits - total @ np.logaddexp(0, logits))
