"""Scores as sums that sites can share and anybody can add: histograms per class, errors, a confusion table.

A score s in [0, 1] falls into bin ``min(floor(s * bins), bins - 1)``, computed in double precision. A binary
task has one row (the positive class) and a 2 x 2 confusion table at the study's threshold; a multiclass task
one row per class against the rest and a C x C table of the most probable class; a multilabel task one row
per class and no table.

No score leaves a site exactly, only how many fell into each bin and what they add up to.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from components.errors import RefusedError
from components.evaluation.benefit import add_treatment
from components.evaluation.benefit_checks import check_treatment
from components.evaluation.survival_sums import add_survival
from components.rounds import ScoreSums, SurvivalSums

TaskKind = Literal["binary", "multiclass", "multilabel"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

ROUNDING = 1e-6  # a softmax in float32 may leave [0, 1] by this much; more is a mistake
SMALLEST_PROBABILITY = 1e-7  # below float32's resolution near 1; keeps a logarithm finite


def row_count(kind: TaskKind, classes: Sequence[str]) -> int:
    """Return how many rows the histograms of a task have: 1 for binary, else one per class.

    >>> row_count("binary", ["clear", "pneumonia"])
    1
    """
    return 1 if kind == "binary" else len(classes)


def empty_sums(kind: TaskKind, classes: Sequence[str], bins: int) -> ScoreSums:
    """Return the sums of no items: what every addition may start from.

    >>> empty_sums("binary", ["clear", "pneumonia"], 10).count
    0
    """
    nothing = np.zeros((0, row_count(kind, classes)))
    labels = nothing if kind == "multilabel" else np.zeros(0)
    return sums_from_scores(nothing, labels, kind=kind, classes=classes, bins=bins, threshold=0.5)


def sums_from_scores(
    scores: Tensor | NDArray[Any],
    labels: Tensor | NDArray[Any],
    *,
    kind: TaskKind,
    classes: Sequence[str],
    bins: int,
    threshold: float,
) -> ScoreSums:
    """Turn scores and labels into sums.

    Args:
        scores: [N, K] probabilities; K is 1 for binary ([N] is taken too), else the number of classes.
        labels: [N] class numbers for binary and multiclass; [N, C] zeros and ones for multilabel.
        kind: The task's kind.
        classes: Names of the classes, in the order of the labels.
        bins: Number of equal bins on [0, 1], two at least.
        threshold: Score from which an item counts as positive (binary confusion table only).

    Returns:
        The sums. `loss` is the cross-entropy of the scores in nats, unweighted: of the true class for
        binary and multiclass, the mean over classes for multilabel; a score counts as 1e-7 at least.
        A caller with a loss of its own puts it in by ``model_copy(update={"loss": ...})``.

    Raises:
        ValueError: If shapes do not fit the task, a score is not in [0, 1] or not a number, or a label
            is not one of the classes.

    >>> sums = sums_from_scores(
    ...     np.array([0.1, 0.9, 1.0]), np.array([0, 0, 1]), kind="binary", classes=["no", "yes"], bins=2, threshold=0.5
    ... )
    >>> sums.negatives, sums.positives, sums.confusion
    ([[1, 1]], [[0, 1]], [[1, 1], [0, 1]])
    """
    if bins < 2:
        raise ValueError(f"bins must be 2 or more, given {bins}")
    score, truth = _checked(_array(scores), _array(labels), kind=kind, classes=classes)
    rows = score.shape[1]
    slots = np.minimum((score * bins).astype(np.int64), bins - 1) + bins * np.arange(rows)
    everything = np.bincount(slots.ravel(), minlength=rows * bins)
    positives = np.bincount(slots[truth], minlength=rows * bins)
    score_sums = np.bincount(slots.ravel(), weights=score.ravel(), minlength=rows * bins).astype(np.float64)
    return ScoreSums(
        bins=bins,
        positives=positives.reshape(rows, bins).tolist(),
        negatives=(everything - positives).reshape(rows, bins).tolist(),
        score_sums=score_sums.reshape(rows, bins).tolist(),
        squared_error=((score - truth) ** 2).sum(axis=0).tolist(),
        confusion=_confusion(score, truth, kind=kind, threshold=threshold).tolist(),
        loss=_cross_entropy(score, truth, kind=kind),
        count=len(score),
    )


def add_sums(sums: Sequence[ScoreSums]) -> ScoreSums:
    """Add the sums of several sites.

    Args:
        sums: One or more, of one task.

    Returns:
        Their sum.

    Raises:
        ValueError: If there is nothing to add, or bins, classes or tables have different shapes.

    Guarantees:
        Counts are exact. Floating-point sums are rounded once, from the exact sum (Shewchuk 1997), so
        that the order of the sites changes nothing, not even the last bit.
    """
    if not sums:
        raise ValueError("no site's sums were given: the sum over no sites has no classes and no bins")
    shapes = {_shape(item) for item in sums}
    if len(shapes) > 1:
        listed = ", ".join(str(shape) for shape in sorted(shapes))
        raise ValueError(f"sums of different shapes cannot be added (bins, classes, table): {listed}")
    return ScoreSums(
        bins=sums[0].bins,
        positives=_add_integers([item.positives for item in sums]),
        negatives=_add_integers([item.negatives for item in sums]),
        score_sums=[_add_floats(rows) for rows in zip(*(item.score_sums for item in sums), strict=True)],
        squared_error=_add_floats([item.squared_error for item in sums]),
        confusion=_add_integers([item.confusion for item in sums]),
        loss=math.fsum(item.loss for item in sums),
        count=sum(item.count for item in sums),
        groups={
            name: add_sums([item.groups[name] for item in sums if name in item.groups])
            for name in sorted({name for item in sums for name in item.groups})
        },
        survival=_add_survival(sums),
        treatment=add_treatment([item.treatment for item in sums if item.treatment is not None]),
    )


def _add_survival(sums: Sequence[ScoreSums]) -> SurvivalSums | None:
    """Add the sums of survival models, if these are some."""
    found = [item.survival for item in sums if item.survival is not None]
    if found and len(found) < len(sums):
        raise ValueError("sums of survival models and of others cannot be added")
    return add_survival(found) if found else None


def check_sums(
    sums: ScoreSums,
    *,
    kind: TaskKind,
    classes: Sequence[str],
    bins: int,
    most_items: int | None = None,
    groups: Collection[str] = (),
    treatment: bool = False,
) -> None:
    """Refuse sums that no evaluation could have given: called on what a site sends before it is used.

    Args:
        sums: The sums as received.
        kind: The task's kind.
        classes: Names of the classes.
        bins: The study's number of bins.
        most_items: Most items that are believed: those the site said it has; no limit if None.
        groups: Names of the subgroups that the study asks for.
        treatment: Whether the study is one of treatments.

    Raises:
        RefusedError: If shapes do not fit the study, a number is negative or not finite, there are more items than
            `most_items`, the items of the histograms or of the confusion table do not add up to `count`, or a
            bin's scores do not add up to something its edges allow; or if the same holds for a subgroup, it is none of
        the study's, or has more items than there are; or benefits as of `check_treatment`.
    """
    if sums.groups.keys() - set(groups):
        raise RefusedError("the evaluation has subgroups that the study does not ask for")
    for group in sums.groups.values():
        check_sums(group, kind=kind, classes=classes, bins=bins, most_items=sums.count)
    _check_whole(sums, kind=kind, classes=classes, bins=bins, most_items=most_items)
    if sums.treatment is not None:
        if not treatment:
            raise RefusedError("the evaluation has benefits of a treatment that the study does not ask for")
        check_treatment(sums.treatment, bins=bins, most_items=sums.count)


def _check_whole(sums: ScoreSums, *, kind: TaskKind, classes: Sequence[str], bins: int, most_items: int | None) -> None:
    """Refuse sums over all items that no evaluation could have given."""
    if most_items is not None and sums.count > most_items:
        raise RefusedError(f"an evaluation of {sums.count} items, the site can have {most_items} at the most")
    rows, side = row_count(kind, classes), 0 if kind == "multilabel" else len(classes)
    if sums.bins != bins:
        raise RefusedError(f"evaluation has {sums.bins} bins, the study says {bins}")
    widths = [len(row) for table in (sums.positives, sums.negatives, sums.score_sums) for row in table]
    if widths != [bins] * (3 * rows) or len(sums.squared_error) != rows:
        raise RefusedError(f"evaluation does not have {rows} rows of {bins} bins")
    if [len(row) for row in sums.confusion] != [side] * side:
        raise RefusedError(f"the confusion table is not {side} x {side}")
    counts = [count for table in (sums.positives, sums.negatives, sums.confusion) for row in table for count in row]
    if max(counts) > sums.count:  # of any size: what follows is arithmetic in 64 bits
        raise RefusedError(f"one count of the evaluation is above the {sums.count} items that it says it has")
    positives, negatives = np.array(sums.positives), np.array(sums.negatives)
    totals = [*(positives + negatives).sum(axis=1), *([np.sum(sums.confusion)] if side else [])]
    if min(positives.min(), negatives.min(), *map(min, sums.confusion or [[0]])) < 0:
        raise RefusedError("a count of the evaluation is below zero")
    if any(total != sums.count for total in totals):
        raise RefusedError(f"histograms or confusion table hold {totals} items, the evaluation says {sums.count}")
    floats = np.array([sums.loss, *sums.squared_error])
    if not np.isfinite(floats).all() or min(sums.squared_error) < 0 or max(sums.squared_error) > sums.count:
        raise RefusedError("loss or squared error of the evaluation is out of range")
    _check_score_sums(np.array(sums.score_sums), positives + negatives)


def _check_score_sums(score_sums: Floats, items: Integers) -> None:
    """Refuse a bin whose scores add up to less than its lower or more than its upper edge allows."""
    bins = items.shape[1]
    lowest, highest = items * np.arange(bins) / bins, items * np.arange(1, bins + 1) / bins
    slack = 1e-9 * (1 + items)
    if not ((score_sums >= lowest - slack) & (score_sums <= highest + slack)).all():
        raise RefusedError("the sum of scores in a bin is not between the bin's edges")


def _array(values: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Return a tensor or an array as an array, on the host."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _checked(
    scores: NDArray[Any], labels: NDArray[Any], *, kind: TaskKind, classes: Sequence[str]
) -> tuple[Floats, Booleans]:
    """Return scores and truth, both [N, rows], or refuse what does not fit the task."""
    rows = row_count(kind, classes)
    score = scores.astype(np.float64)
    score = score[:, None] if score.ndim == 1 and rows == 1 else score
    if score.ndim != 2 or score.shape[1] != rows:
        raise ValueError(
            f"scores must be [N, {rows}] for a {kind} task of {len(classes)} classes, given {scores.shape}"
        )
    if not ((score >= -ROUNDING) & (score <= 1 + ROUNDING)).all():
        raise ValueError("scores must be probabilities in [0, 1]; some are outside or not a number")
    wanted = score.shape if kind == "multilabel" else (len(score),)
    if labels.shape != wanted:
        raise ValueError(f"labels must be {wanted} beside scores {scores.shape}, given {labels.shape}")
    allowed = 2 if kind == "multilabel" else len(classes)
    if not np.isin(labels, np.arange(allowed)).all():
        raise ValueError(f"labels must be whole numbers from 0 to {allowed - 1}")
    if kind == "multilabel":
        return np.clip(score, 0, 1), labels.astype(np.bool_)
    columns = [1] if kind == "binary" else range(rows)
    return np.clip(score, 0, 1), labels[:, None] == np.array(columns)


def _confusion(score: Floats, truth: Booleans, *, kind: TaskKind, threshold: float) -> Integers:
    """Count items by true class (row) and predicted class (column)."""
    if kind == "multilabel":
        return np.zeros((0, 0), dtype=np.int64)
    if kind == "binary":
        actual, predicted, side = truth[:, 0].astype(np.int64), (score[:, 0] >= threshold).astype(np.int64), 2
    else:
        actual, predicted, side = truth.argmax(axis=1), score.argmax(axis=1), score.shape[1]
    return np.bincount(actual * side + predicted, minlength=side * side).reshape(side, side)


def _cross_entropy(score: Floats, truth: Booleans, *, kind: TaskKind) -> float:
    """Add up the cross-entropy of the scores over items, in nats."""
    if kind == "multiclass":
        return float(-np.log(np.maximum(score[truth], SMALLEST_PROBABILITY)).sum())
    each = -np.log(np.maximum(np.where(truth, score, 1 - score), SMALLEST_PROBABILITY))
    return float(each.mean(axis=1).sum())


def _shape(sums: ScoreSums) -> tuple[int, int, int]:
    """Return bins, rows and side of the confusion table; `ScoreSums` that were checked have no others."""
    return sums.bins, len(sums.positives), len(sums.confusion)


def _add_integers(tables: Sequence[list[list[int]]]) -> list[list[int]]:
    """Add tables of whole numbers, entry by entry."""
    total: list[list[int]] = np.sum([np.array(table, dtype=np.int64) for table in tables], axis=0).tolist()
    return total


def _add_floats(rows: Sequence[Sequence[float]]) -> list[float]:
    """Add rows of floating-point numbers, entry by entry, each rounded once."""
    return [math.fsum(entries) for entries in zip(*rows, strict=True)]
