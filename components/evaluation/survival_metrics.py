"""From a survival model's sums to its metrics: one site's, or the whole federation's from the added sums."""

from __future__ import annotations

import math

from components.evaluation.intervals import Estimate, Outcome, Undefined, bounded, estimate, normal
from components.rounds import CalibrationSums, PairSums, ScoreSums, SurvivalSums
from components.study import Metric
from components.survival import Survival

NO_ITEMS = "there are no items"
NOBODY = "no site follows enough of its patients until then"


def survival_outcomes(sums: ScoreSums, task: Survival) -> dict[Metric, Outcome]:
    """Return every metric of a survival task, or why it has no value.

    Args:
        sums: One site's sums, or `add_sums` of several.
        task: The task.

    Returns:
        By the name the study uses:

        ``concordance``: Harrell's, over pairs within sites; ``concordance_ipcw``: Uno's, until the last horizon. Their
        intervals are those of a ratio of two U-statistics, on the logit scale; that the weights are estimated is left
        out of account.
        ``brier``: at the first horizon; ``integrated_brier``: from the first edge of the grid to the last horizon.
        ``calibration_ratio``: events seen over events expected until the first horizon; above 1 the predicted chances
        are too low.
        ``loss``: mean over items of the negative (partial) log-likelihood; its interval is its value: it is no sum of
        independent parts.

    Raises:
        ValueError: If these are no survival sums.
    """
    found = sums.survival
    if found is None:
        raise ValueError("these sums are not those of a survival model")
    place = task.places[0]
    return {
        "concordance": _concordance(found.pairs, sums.count),
        "concordance_ipcw": _concordance(found.weighted_pairs, sums.count),
        "brier": _mean(found.brier[place], found.brier_squares[place], found.followed[place]),
        "integrated_brier": _integrated(found, task),
        "calibration_ratio": _ratio(found.calibration[0]),
        "loss": _loss(sums),
    }


def _concordance(pairs: PairSums, items: int) -> Outcome:
    """Return concordant over comparable pairs."""
    if not pairs.comparable:
        return Undefined("no two patients of a site can be compared: it takes an event, and one who was seen longer")
    value = min(1.0, pairs.concordant / pairs.comparable)
    variance = pairs.squares - 2 * value * pairs.products + value * value * pairs.weights
    error = math.sqrt(max(variance, 0.0)) / pairs.comparable
    return estimate(value, bounded(value, error, effective_items=items), items)


def _mean(total: float, squares: float, items: int) -> Outcome:
    """Return a mean over items, with a normal interval that begins at 0."""
    if not items:
        return Undefined(NOBODY)
    value = total / items
    error = math.sqrt(max(squares / items - value * value, 0.0) / max(items - 1, 1))
    low, high = normal(value, error)
    return estimate(value, (max(0.0, low), high), items)


def _integrated(sums: SurvivalSums, task: Survival) -> Outcome:
    """Return the mean over time of the errors, by trapezoids; its interval is that of errors that rise together."""
    edges, last = task.grid.edges, task.places[-1] + 1
    each = [_mean(*row) for row in zip(sums.brier[:last], sums.brier_squares[:last], sums.followed[:last], strict=True)]
    known = [found for found in each if isinstance(found, Estimate)]
    if len(known) < last:
        return Undefined(NOBODY)
    weights = [(edges[min(place + 1, last - 1)] - edges[max(place - 1, 0)]) / 2 for place in range(last)]
    whole = math.fsum(weights) or 1.0
    parts = weights if last > 1 else [1.0]
    value, high = (
        math.fsum(part * getattr(found, name) for part, found in zip(parts, known, strict=True)) / whole
        for name in ("value", "high")
    )
    low, high = max(0.0, 2 * value - high), high
    return estimate(value, (low, high), min(sums.followed[:last]))


def _ratio(sums: CalibrationSums) -> Outcome:
    """Return observed over expected events, with an interval on the logarithmic scale."""
    items = sum(sums.counts)
    if not items:
        return Undefined(NOBODY)
    observed, expected = math.fsum(sums.observed), math.fsum(sums.expected)
    if not observed or expected <= 0:
        return Undefined("no event was seen until the horizon" if not observed else "no event is expected")
    half = 1.959963984540054 * math.sqrt(math.fsum(sums.squares)) / observed
    value = observed / expected
    return estimate(value, (value * math.exp(-half), value * math.exp(min(half, 50.0))), items)


def _loss(sums: ScoreSums) -> Outcome:
    """Return the mean loss."""
    if not sums.count:
        return Undefined(NO_ITEMS)
    value = sums.loss / sums.count
    return Estimate(value, value, value, sums.count)
