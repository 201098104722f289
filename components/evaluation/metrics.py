"""From sums to metrics: one site's, or the whole federation's from the added sums of its sites.

The metrics of a federation are those of the added sums, never the mean of the sites' metrics: a site of 20
items must not weigh as much as one of 2,000, and an AUROC over all patients compares patients across sites.

Multiclass and multilabel tasks are judged one class against the rest; the metric is the mean over classes,
and it is undefined where it is undefined for one class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.evaluation.curves import auroc, average_precision
from components.evaluation.histograms import SMALLEST_PROBABILITY, Floats, Integers, TaskKind, row_count
from components.evaluation.intervals import (
    Estimate,
    Outcome,
    Undefined,
    bounded,
    estimate,
    mean_of,
    normal,
    wilson,
)
from components.evaluation.recalibration import calibration_line
from components.rounds import ScoreSums
from components.study import Metric, Task

__all__ = ["Estimate", "class_metrics", "estimate_metrics", "undefined_metrics"]

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class OneAgainstRest:
    """The sums of one class against the rest.

    Attributes:
        positives: [bins] counts of the items that have the class.
        negatives: [bins] counts of the others.
        score_sums: [bins] sums of the scores.
        squared_error: Sum of squared differences of score and truth.
        true_positives: Items that have the class and are called so.
        false_positives: Items that do not have the class and are called so.
    """

    positives: Integers
    negatives: Integers
    score_sums: Floats
    squared_error: float
    true_positives: int
    false_positives: int


def estimate_metrics(
    sums: ScoreSums, *, kind: TaskKind, threshold: float, classes: Sequence[str]
) -> dict[Metric, Estimate]:
    """Estimate every metric that is defined, with its 95 % interval and support.

    Args:
        sums: One site's sums, or `add_sums` of several.
        kind: The task's kind.
        threshold: Score from which an item counts as positive. Binary: the confusion table was made with it
            and is exact. Multilabel: rounded to the nearest edge of a bin. Multiclass: not used, the most
            probable class counts.
        classes: Names of the classes.

    Returns:
        By the name the study uses:

        ``auroc``, ``average_precision``: see `components.evaluation.curves`.
        ``accuracy``: share of right answers (multilabel: mean over classes), Wilson.
        ``sensitivity``, ``specificity``: Wilson; over several classes their mean, by `mean_of`.
        ``balanced_accuracy``: mean of sensitivity and specificity; multiclass: mean recall.
        ``brier``: mean squared error of the score; over several classes their mean (Brier's own sum over
        classes, divided by their number). Normal, variance from the mean scores of the bins.
        ``calibration_error``: see `calibration_error`.
        ``calibration_slope``, ``calibration_intercept``: see `components.evaluation.recalibration`; over several
        classes their means.
        ``loss``: mean of the loss in the sums. Normal, with the coefficient of variation of the cross-entropy
        taken from the bins: right for the unweighted cross-entropy, an approximation for another loss.

        A metric that is not defined for these items is absent; `undefined_metrics` says why.

    Raises:
        ValueError: If the sums' rows are not those of the task.
    """
    outcomes = _outcomes(sums, kind=kind, threshold=threshold, classes=classes)
    return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Estimate)}


def undefined_metrics(
    sums: ScoreSums, *, kind: TaskKind, threshold: float, classes: Sequence[str]
) -> dict[Metric, str]:
    """Return the metrics that `estimate_metrics` leaves out, each with the reason."""
    outcomes = _outcomes(sums, kind=kind, threshold=threshold, classes=classes)
    return {name: outcome.reason for name, outcome in outcomes.items() if isinstance(outcome, Undefined)}


def class_kind(task: Task) -> TaskKind:
    """Return the kind of a task of classes.

    Raises:
        ValueError: If it is one of survival.
    """
    if task.kind == "survival":
        raise ValueError("a survival task has no classes to judge")
    return task.kind


def class_metrics(
    sums: ScoreSums, *, kind: TaskKind, threshold: float, classes: Sequence[str]
) -> dict[str, dict[Metric, Estimate]]:
    """Estimate the metrics of each class against the rest: by class (binary: the positive one), then metric."""
    names = [classes[1]] if kind == "binary" else list(classes)
    rows = _rows(sums, kind=kind, threshold=threshold, classes=classes)
    per_class: dict[str, dict[Metric, Estimate]] = {}
    for name, row in zip(names, rows, strict=True):
        outcomes = _class_outcomes(row)
        per_class[name] = {metric: item for metric, item in outcomes.items() if isinstance(item, Estimate)}
    return per_class


def calibration_error(row: OneAgainstRest) -> Outcome:
    r"""Return the expected calibration error over ten equally wide groups of scores.

    .. math:: \sum_k g_k,\quad g_k = \frac1N\left|\sum_{i \in k} y_i - s_i\right|,\qquad
              \sigma_k^2 = \frac1{N^2}\sum_{i \in k} (y_i - s_i)^2

    The plug-in estimate is too high by anything from nothing to :math:`\sqrt{2/\pi}\sum_k \sigma_k`
    (the latter for a perfectly calibrated score). The interval allows for all of that at its lower end
    and adds :math:`1.96\,(\sum_k \sigma_k^2)^{1/2}` at both, so it covers 95 % whatever the bias is.

    Args:
        row: The sums of one class against the rest. The sums of scores are exact; the groups' edges are
            the nearest edges of the bins, the squares come from the bins' mean scores.

    Reference:
        Naeini, Cooper, Hauskrecht (2015), AAAI; for the bias: Broecker (2012), Climate Dynamics 39.
    """
    count = _count(row)
    if count == 0:
        return Undefined("there are no items")
    bins = len(row.positives)
    group = np.arange(bins) * CALIBRATION_BINS // bins
    gaps = np.abs(np.bincount(group, row.positives - row.score_sums, minlength=CALIBRATION_BINS)) / count
    mean = _mean_scores(row)
    squares = row.positives * (1 - mean) ** 2 + row.negatives * mean**2
    sigmas = np.sqrt(np.bincount(group, squares, minlength=CALIBRATION_BINS)) / count
    value, spread = min(1.0, float(gaps.sum())), float(np.sqrt((sigmas**2).sum()))
    if spread == 0:
        return estimate(value, wilson(value * count, count), count)
    low, high = normal(value, spread)
    return estimate(value, (max(0.0, low - math.sqrt(2 / math.pi) * float(sigmas.sum())), min(1.0, high)), count)


def _rows(sums: ScoreSums, *, kind: TaskKind, threshold: float, classes: Sequence[str]) -> list[OneAgainstRest]:
    """Split sums into one class against the rest, each."""
    expected = row_count(kind, classes)
    if len(sums.positives) != expected or len(sums.confusion) != (0 if kind == "multilabel" else len(classes)):
        raise ValueError(
            f"sums have {len(sums.positives)} rows; a {kind} task of {len(classes)} classes has {expected}"
        )
    confusion = np.array(sums.confusion, dtype=np.int64).reshape(len(sums.confusion), len(sums.confusion))
    edge = round(threshold * sums.bins)
    rows = []
    for index in range(expected):
        positives, negatives = np.array(sums.positives[index]), np.array(sums.negatives[index])
        if kind == "multilabel":
            true, false = int(positives[edge:].sum()), int(negatives[edge:].sum())
        else:
            column = 1 if kind == "binary" else index
            true = int(confusion[column, column])
            false = int(confusion[:, column].sum()) - true
        scores, error = np.array(sums.score_sums[index]), sums.squared_error[index]
        rows.append(OneAgainstRest(positives, negatives, scores, error, true, false))
    return rows


def _outcomes(sums: ScoreSums, *, kind: TaskKind, threshold: float, classes: Sequence[str]) -> dict[Metric, Outcome]:
    """Return every metric of the task, or why it has no value."""
    rows = _rows(sums, kind=kind, threshold=threshold, classes=classes)
    each = [_class_outcomes(row) for row in rows]
    if kind != "binary":
        names = classes
        each = [_named(outcomes, name) for outcomes, name in zip(each, names, strict=True)]
    means: dict[Metric, Outcome] = {
        metric: mean_of([outcomes[metric] for outcomes in each], disjoint=False) for metric in each[0]
    }
    if kind == "multiclass":
        right = sum(row.true_positives for row in rows)
        means["accuracy"] = _share(right, sums.count, "there are no items")
        means["sensitivity"] = mean_of([outcomes["sensitivity"] for outcomes in each], disjoint=True)
        means["balanced_accuracy"] = means["sensitivity"]
    return means | {"loss": _loss(sums, rows, kind=kind)}


def _named(outcomes: dict[Metric, Outcome], name: str) -> dict[Metric, Outcome]:
    """Say of which class the reasons are."""
    return {
        metric: Undefined(f"class {name}: {outcome.reason}") if isinstance(outcome, Undefined) else outcome
        for metric, outcome in outcomes.items()
    }


def _class_outcomes(row: OneAgainstRest) -> dict[Metric, Outcome]:
    """Return the metrics of one class against the rest, all but the loss."""
    count, m = _count(row), int(row.positives.sum())
    sensitivity = _share(row.true_positives, m, "no item has the class")
    specificity = _share(count - m - row.false_positives, count - m, "every item has the class")
    right = row.true_positives + count - m - row.false_positives
    slope, intercept = calibration_line(row.positives, row.negatives, _mean_scores(row))
    return {
        "auroc": auroc(row.positives, row.negatives),
        "average_precision": average_precision(row.positives, row.negatives),
        "accuracy": _share(right, count, "there are no items"),
        "balanced_accuracy": mean_of([sensitivity, specificity], disjoint=True),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "brier": _brier(row),
        "calibration_error": calibration_error(row),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }


def _share(successes: int, trials: int, reason: str) -> Outcome:
    """Return a proportion with Wilson's interval, or the reason why there is none."""
    return estimate(successes / trials, wilson(successes, trials), trials) if trials else Undefined(reason)


def _brier(row: OneAgainstRest) -> Outcome:
    """Return the mean squared error; its variance from the mean scores of the bins."""
    count = _count(row)
    if count == 0:
        return Undefined("there are no items")
    value = min(1.0, row.squared_error / count)
    mean = _mean_scores(row)
    error = _standard_error(np.concatenate([(1 - mean) ** 2, mean**2]), np.concatenate([row.positives, row.negatives]))
    if error == 0:
        return estimate(value, bounded(value, 0.0, effective_items=count), count)
    low, high = normal(value, error)
    return estimate(value, (max(0.0, low), min(1.0, high)), count)


def _loss(sums: ScoreSums, rows: Sequence[OneAgainstRest], *, kind: TaskKind) -> Outcome:
    """Return the mean loss; its interval has the relative width of the cross-entropy's."""
    if sums.count == 0:
        return Undefined("there are no items")
    value = sums.loss / sums.count
    if kind == "multiclass":
        losses, counts = [_surprise(_mean_scores(row)) for row in rows], [row.positives for row in rows]
        relative = _relative_error(np.concatenate(losses), np.concatenate(counts))
    else:
        relative = float(np.mean([_relative_binary_loss_error(row) for row in rows]))
    low, high = normal(value, abs(value) * relative)
    return estimate(value, (min(value, max(0.0, low)), high), sums.count)


def _relative_binary_loss_error(row: OneAgainstRest) -> float:
    """Return the relative standard error of one class's binary cross-entropy."""
    mean = _mean_scores(row)
    losses = np.concatenate([_surprise(mean), _surprise(1 - mean)])
    return _relative_error(losses, np.concatenate([row.positives, row.negatives]))


def _relative_error(values: Floats, counts: Integers) -> float:
    """Return the standard error of a mean over that mean; 1 for a single item, whose spread is unknown."""
    total = float(values @ counts)
    if counts.sum() < 2:
        return 1.0
    return _standard_error(values, counts) / (total / int(counts.sum())) if total > 0 else 0.0


def _standard_error(values: Floats, counts: Integers) -> float:
    """Return the standard error of the mean of `values`, each met `counts` times; 0 for one item."""
    total = int(counts.sum())
    mean = float(values @ counts) / total
    return math.sqrt(float((values - mean) ** 2 @ counts) / max(total - 1, 1) / total)


def _surprise(probability: Floats) -> Floats:
    """Return the negative logarithm, finite."""
    logarithm: Floats = -np.log(np.maximum(probability, SMALLEST_PROBABILITY))
    return logarithm


def _mean_scores(row: OneAgainstRest) -> Floats:
    """Return the mean score of each bin; 0 for an empty one, where it counts for nothing."""
    mean: Floats = row.score_sums / np.maximum(row.positives + row.negatives, 1)
    return mean


def _count(row: OneAgainstRest) -> int:
    """Count the items."""
    return int(row.positives.sum() + row.negatives.sum())
