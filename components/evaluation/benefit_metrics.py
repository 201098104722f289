r"""How good a model's recommendations are, from summed bins of predicted benefit.

Every estimate is a difference of weighted means over the two arms, or over those who were given what the model
recommends and those who were not; weights are one over the chance of the own arm. In a randomised trial these are
plain differences of groups. With :math:`y` the wanted outcome (0 or 1) and :math:`\bar y_w` a weighted mean, the
variance of each mean is that of its linearisation, :math:`\sum w^2 (y - \bar y_w)^2 / (\sum w)^2`, so that no
resampling is needed and equal sums give equal intervals. They hold for the model and its ranking as they are, and where
chances were fitted, they are taken as known, which makes the intervals rather too wide (Lunceford, Davidian 2004).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from components.evaluation.benefit import ONCE, OVERLAP_BINS, TWICE, Floats, Integers, benefit_bins
from components.evaluation.intervals import Estimate, estimate, normal
from components.rounds import ArmSums, BenefitMoments, TreatmentSums

FEWEST = 2  # patients of an arm below which nothing is estimated
IN_UNITS = ("effect", "recommended_gain", "auuc", "qini", "benefit_offset")  # in the outcome's: a probability, or days
WHOLE = 10  # such a number, or its interval, that reaches so far is written without digits after the point


@dataclass(frozen=True)
class Bins:
    """One arm's sums by bin, each [B]; see `components.rounds.ArmSums`.

    Attributes:
        patients: Patients.
        benefit: Mean predicted benefit; 0 in an empty bin.
        weights: Sum of weights.
        squares: Sum of squared weights.
        outcomes: Sum of weight times outcome.
        square_outcomes: Sum of squared weight times outcome.
        seconds: Sum of squared weight times squared outcome.
    """

    patients: Integers
    benefit: Floats
    weights: Floats
    squares: Floats
    outcomes: Floats
    square_outcomes: Floats
    seconds: Floats

    def less(self, mean: float) -> Bins:
        """Return the same with an outcome that is less by `mean`."""
        return replace(
            self,
            outcomes=self.outcomes - mean * self.weights,
            square_outcomes=self.square_outcomes - mean * self.squares,
            seconds=self.seconds - 2 * mean * self.square_outcomes + mean**2 * self.squares,
        )


@dataclass(frozen=True)
class Mean:
    """A weighted mean and its variance."""

    value: float
    variance: float


def dense(arm: ArmSums, bins: int) -> Bins:
    """Return one arm's sums with a place for each of the study's bins."""

    def laid_out(values: list[float] | list[int]) -> Floats:
        found = np.zeros(benefit_bins(bins))
        found[arm.bins] = values
        return found

    patients = laid_out(arm.patients).astype(np.int64)
    mean = laid_out(arm.benefits) / np.maximum(patients, 1)
    weights, squares, outcomes = map(laid_out, (arm.weights, arm.squares, arm.outcomes))
    second, third = laid_out(arm.square_outcomes), laid_out(arm.squared_outcomes)
    return Bins(patients, mean, weights, squares, outcomes, second, third)


def digits_of(metric: str, found: Estimate, digits: int = 3) -> int:
    """Return how many digits after the point a metric is written with: none of days, whose parts say nothing.

    >>> digits_of("effect", Estimate(-120.32, -288.7, 48.06, 280)), digits_of("effect", Estimate(0.12, 0.1, 0.2, 280))
    (0, 3)
    """
    return 0 if metric in IN_UNITS and max(abs(found.low), abs(found.high)) >= WHOLE else digits


def benefit_metrics(sums: TreatmentSums, bins: int, unit: float = 1.0) -> dict[str, Estimate]:
    r"""Estimate what is defined, with 95 % intervals.

    Args:
        sums: One site's sums, or several sites' added.
        bins: The study's bins.
        unit: What an outcome of 1 is: 1 for a probability, the horizon for survival.

    Returns:
        By name; all in parts of the best outcome (the probability of the wanted one; of survival the mean lived part
        of the time until the horizon, restricted mean survival over `unit`), above 0 where the second arm, or the
        advice, is better; times `unit`, but for the slope:

        ``effect``: the mean effect of the second arm.
        ``recommended_gain``: those who were given what the model recommends, less those who were not. A model that
        recommends one arm to everybody has the effect itself, or less than it, and no more. Of the sites that tell
        of either.
        ``auuc``: area under the uplift curve :math:`U(\phi)`: what is gained, a patient, by giving the second arm to
        the part :math:`\phi` with the largest predicted benefit (Radcliffe 2007's Qini curve of the outcome less its
        mean, over the number of patients of the second arm).
        ``qini``: the area between :math:`U(\phi)` and the straight line to :math:`U(1)`, which a ranking by chance
        has; 0 is no better than chance. Both of those who are ranked, and coarser than it is where bins were joined.
        ``benefit_slope``: of the observed on the predicted benefit, 1 is right: the interaction of arm and predicted
        benefit in a linear regression of the outcome (Chernozhukov et al. 2018, best linear predictor).
        ``benefit_offset``: observed less predicted mean benefit, 0 is right.

        Empty, if an arm has fewer than two patients.

    Reference:
        Radcliffe (2007), Using control groups to target on predicted lift, Direct Marketing Analytics Journal 1;
        Chernozhukov, Demirer, Duflo, Fernandez-Val (2018), NBER 24678, section 2.2.
    """
    first, second = _all(sums, 0, bins), _all(sums, 1, bins)
    if not _enough(first, second):
        return {}
    means = {"effect": _difference(first, second, np.ones(len(first.patients)))}
    count = int(first.patients.sum() + second.patients.sum())
    predicted = float(first.patients @ first.benefit + second.patients @ second.benefit) / count
    means["benefit_offset"] = Mean(means["effect"].value - predicted, means["effect"].variance)
    means |= _ranking(sums, bins) | _gain(sums) | _slope(sums)
    ranked = sum(sum(arm.patients) for arm in sums.arms)
    counts = {"auuc": ranked, "qini": ranked, "recommended_gain": sum(sum(side.patients) for side in sums.advice or [])}
    scaled = {name: 1.0 if name == "benefit_slope" else unit for name in means}
    return {
        name: _estimate(Mean(mean.value * scaled[name], mean.variance * scaled[name] ** 2), counts.get(name, count))
        for name, mean in means.items()
    }


def untold_benefits(found: Mapping[str, Estimate]) -> dict[str, str]:
    """Return which metrics of the benefit some sums have no value of, each with the reason."""
    reasons = {
        "recommended_gain": "too few patients were given what is recommended, or too few were not",
        "qini": "too few patients for more than one group of like benefit",
        "auuc": "too few patients for more than one group of like benefit",
        "benefit_slope": "too few patients in an arm",
    }
    return {name: text for name, text in reasons.items() if name not in found}


def ranks(patients: Integers) -> Floats:
    """Return the part of the patients with a larger predicted benefit than a bin's, half of its own among them."""
    above = patients[::-1].cumsum()[::-1] - patients
    found: Floats = (above + patients / 2) / max(int(patients.sum()), 1)
    return found


def uplift_curve(sums: TreatmentSums, bins: int) -> tuple[Floats, Floats]:
    """Return the uplift curve: parts treated, from 0 to 1, and what is gained, at edges of bins with anybody.

    Only its beginning, where nobody is ranked.
    """
    first, second = _centred(sums, bins)
    if not _enough(first, second):
        return np.zeros(1), np.zeros(1)
    patients = first.patients + second.patients
    gained = second.outcomes / second.weights.sum() - first.outcomes / first.weights.sum()
    kept = np.flatnonzero(patients)[::-1]
    parts, gains = patients[kept].cumsum() / patients.sum(), gained[kept].cumsum()
    return np.concatenate([[0.0], parts]), np.concatenate([[0.0], gains])


def benefit_calibration(sums: TreatmentSums, bins: int, groups: int = 5) -> list[tuple[float, Estimate]]:
    """Return mean predicted and observed benefit of groups of like predicted benefit.

    Args:
        sums: The sums.
        bins: The study's bins.
        groups: About equally large groups to make; one with fewer than two patients of an arm is left out.
    """
    first, second = (dense(arm, bins) for arm in sums.arms)
    patients = first.patients + second.patients
    group = np.minimum((ranks(patients) * groups).astype(np.int64), groups - 1)
    found = []
    for number in range(groups - 1, -1, -1):
        chosen = (group == number) & (patients > 0)
        parts = [_part(arm, chosen) for arm in (first, second)]
        count = int(patients[chosen].sum())
        if min(part.patients.sum() for part in parts) < FEWEST or not min(part.weights.sum() for part in parts):
            continue
        predicted = sum(float(part.patients @ part.benefit) for part in parts) / count
        observed = _difference(parts[0], parts[1], np.ones(int(chosen.sum())))
        found.append((predicted, _estimate(observed, count)))
    return found


def overlap(sums: TreatmentSums) -> Integers:
    """Return how many patients of each arm have which chance of the second, [2, bins]."""
    found = np.zeros((2, OVERLAP_BINS), dtype=np.int64)
    for number, arm in enumerate(sums.arms):
        found[number, arm.overlap_bins] = arm.overlap
    return found


def overlap_warnings(sums: TreatmentSums) -> list[str]:
    """Say where patients of the two arms are too unlike to be compared: chances near 0 or 1, few effective patients."""
    found = overlap(sums)
    edge = OVERLAP_BINS // 10
    rare, total = int(found[0, -edge:].sum() + found[1, :edge].sum()), int(found.sum())
    said = []
    if total and rare:
        said.append(
            f"Overlap: {rare} of {total} test patients were given an arm that they had a chance below 0.1 of by "
            "their features; for patients like them the other arm says little."
        )
    for name, told, rest in zip(("first", "second"), sums.arms, sums.whole, strict=True):
        patients = sum(told.patients) + sum(rest.patients)
        squares = sum(told.squares) + sum(rest.squares)
        effective = (sum(told.weights) + sum(rest.weights)) ** 2 / max(squares, 1e-12)
        if patients and effective < patients / 2:
            said.append(f"Overlap: the {patients} test patients of the {name} arm count as {effective:.0f} by weights.")
    return said


def _centred(sums: TreatmentSums, bins: int) -> tuple[Bins, Bins]:
    """Return both arms with an outcome of mean 0: gains stay, and unequal shares of the arms say nothing."""
    first, second = (dense(arm, bins) for arm in sums.arms)
    total = max(float(first.weights.sum() + second.weights.sum()), 1e-12)
    mean = float(first.outcomes.sum() + second.outcomes.sum()) / total
    return first.less(mean), second.less(mean)


def _part(arm: Bins, chosen: np.ndarray) -> Bins:
    """Return some bins of an arm."""
    return Bins(*(getattr(arm, name)[chosen] for name in Bins.__dataclass_fields__))


def _mean(arm: Bins, factor: Floats) -> Mean:
    """Return the weighted mean of a factor times the outcome."""
    total = float(arm.weights.sum())
    value = float(factor @ arm.outcomes) / total
    squares = factor**2 @ arm.seconds - 2 * value * (factor @ arm.square_outcomes) + value**2 * arm.squares.sum()
    return Mean(value, max(float(squares), 0.0) / total**2)


def _difference(first: Bins, second: Bins, factor: Floats) -> Mean:
    """Return the difference of both arms' weighted means of a factor times the outcome."""
    one, other = _mean(first, factor), _mean(second, factor)
    return Mean(other.value - one.value, other.variance + one.variance)


def _all(sums: TreatmentSums, arm: int, bins: int) -> Bins:
    """Return one arm's sums with a place for each bin, of those who are ranked and then of those who are not."""
    parts = dense(sums.arms[arm], bins), dense(sums.whole[arm], bins)
    return Bins(*(np.concatenate([getattr(part, name) for part in parts]) for name in Bins.__dataclass_fields__))


def _enough(*arms: Bins) -> bool:
    """Whether anything can be estimated of them."""
    return all(int(arm.patients.sum()) >= FEWEST and float(arm.weights.sum()) > 0 for arm in arms)


def _ranking(sums: TreatmentSums, bins: int) -> dict[str, Mean]:
    """Return what the order of those who are ranked is worth; nothing if there are none."""
    first, second = _centred(sums, bins)
    if not _enough(first, second):
        return {}
    rank = ranks(first.patients + second.patients)
    return {"auuc": _difference(first, second, 1 - rank), "qini": _difference(first, second, 0.5 - rank)}


def _gain(sums: TreatmentSums) -> dict[str, Mean]:
    """Return what those gained who were given what is recommended; nothing if there are none, or none else."""
    if sums.advice is None:
        return {}
    others, followed = (dense(side, 2) for side in sums.advice)
    return {"recommended_gain": _difference(others, followed, np.ones(2))} if _enough(others, followed) else {}


def _slope(sums: TreatmentSums) -> dict[str, Mean]:
    """Return the slope of the observed on the predicted benefit; nothing if an arm has one benefit everywhere."""
    slopes = [_line(arm) for arm in sums.moments or []]
    if not slopes or None in slopes:
        return {}
    first, second = (slope for slope in slopes if slope is not None)
    return {"benefit_slope": Mean(second.value - first.value, first.variance + second.variance)}


def _line(arm: BenefitMoments) -> Mean | None:
    """Return the slope of an arm's outcome on the predicted benefit, by weighted least squares."""
    once, twice = dict(zip(ONCE, arm.once, strict=True)), dict(zip(TWICE, arm.twice, strict=True))
    total = once[0, 0]
    if total <= 0:
        return None
    middle, outcome = once[1, 0] / total, once[0, 1] / total
    spread = once[2, 0] - middle * once[1, 0]
    if spread <= 1e-12 * total:
        return None
    slope = (once[1, 1] - middle * once[0, 1]) / spread
    # The square of (benefit - middle) times (outcome - line), as a polynomial of benefit (rows) and outcome (columns)
    offset = slope * middle - outcome
    residual = np.array([[offset, 1.0], [-slope, 0.0]])
    centred = np.array([[-middle], [1.0]])
    square = convolved(convolved(centred, residual), convolved(centred, residual))
    moments = np.array([[twice.get((i, j), 0.0) for j in range(square.shape[1])] for i in range(square.shape[0])])
    return Mean(slope, max(float((square * moments).sum()), 0.0) / spread**2)


def convolved(first: Floats, second: Floats) -> Floats:
    """Return the product of two polynomials of two variables, each an array of coefficients by both powers."""
    found = np.zeros((first.shape[0] + second.shape[0] - 1, first.shape[1] + second.shape[1] - 1))
    for (i, j), value in np.ndenumerate(first):
        found[i : i + second.shape[0], j : j + second.shape[1]] += value * second
    return found


def _estimate(mean: Mean, count: int) -> Estimate:
    """Return a mean with its normal interval."""
    return estimate(mean.value, normal(mean.value, math.sqrt(mean.variance)), count)
