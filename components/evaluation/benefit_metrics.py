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
from dataclasses import dataclass, replace

import numpy as np

from components.evaluation.benefit import OVERLAP_BINS, Floats, Integers, benefit_bins
from components.evaluation.intervals import Estimate, estimate, normal
from components.rounds import ArmSums, TreatmentSums

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
        recommends one arm to everybody has the effect itself, or less than it, and no more.
        ``auuc``: area under the uplift curve :math:`U(\phi)`: what is gained, a patient, by giving the second arm to
        the part :math:`\phi` with the largest predicted benefit (Radcliffe 2007's Qini curve of the outcome less its
        mean, over the number of patients of the second arm).
        ``qini``: the area between :math:`U(\phi)` and the straight line to :math:`U(1)`, which a ranking by chance
        has; 0 is no better than chance.
        ``benefit_slope``: of the observed on the predicted benefit, 1 is right: the interaction of arm and predicted
        benefit in a linear regression of the outcome (Chernozhukov et al. 2018, best linear predictor).
        ``benefit_offset``: observed less predicted mean benefit, 0 is right.

        Empty, if an arm has fewer than two patients.

    Reference:
        Radcliffe (2007), Using control groups to target on predicted lift, Direct Marketing Analytics Journal 1;
        Chernozhukov, Demirer, Duflo, Fernandez-Val (2018), NBER 24678, section 2.2.
    """
    first, second = _centred(sums, bins)
    patients = first.patients + second.patients
    count = int(patients.sum())
    if min(first.patients.sum(), second.patients.sum()) < FEWEST or not min(first.weights.sum(), second.weights.sum()):
        return {}
    means = {
        "effect": _difference(first, second, np.ones(len(patients))),
        "auuc": _difference(first, second, 1 - ranks(patients)),
        "qini": _difference(first, second, 0.5 - ranks(patients)),
    }
    predicted = float(first.patients @ first.benefit + second.patients @ second.benefit) / count
    means["benefit_offset"] = Mean(means["effect"].value - predicted, means["effect"].variance)
    means |= _gain(first, second) | _slope(first, second)
    scaled = {name: 1.0 if name == "benefit_slope" else unit for name in means}
    return {
        name: _estimate(Mean(mean.value * scaled[name], mean.variance * scaled[name] ** 2), count)
        for name, mean in means.items()
    }


def ranks(patients: Integers) -> Floats:
    """Return the part of the patients with a larger predicted benefit than a bin's, half of its own among them."""
    above = patients[::-1].cumsum()[::-1] - patients
    found: Floats = (above + patients / 2) / max(int(patients.sum()), 1)
    return found


def uplift_curve(sums: TreatmentSums, bins: int) -> tuple[Floats, Floats]:
    """Return the uplift curve: parts treated, from 0 to 1, and what is gained, at edges of bins with anybody."""
    first, second = _centred(sums, bins)
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
    for name, arm in zip(("first", "second"), sums.arms, strict=True):
        patients, effective = sum(arm.patients), sum(arm.weights) ** 2 / max(sum(arm.squares), 1e-12)
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


def _gain(first: Bins, second: Bins) -> dict[str, Mean]:
    """Return what those gained who were given what is recommended; nothing if there are none, or none else."""
    bins = len(first.patients)
    advised = np.arange(bins) >= bins // 2
    followed, others = (
        Bins(*(np.concatenate([getattr(first, name)[~side], getattr(second, name)[side]])
               for name in Bins.__dataclass_fields__))
        for side in (advised, ~advised)
    )  # fmt: skip
    if min(followed.patients.sum(), others.patients.sum()) < FEWEST or not min(
        followed.weights.sum(), others.weights.sum()
    ):
        return {}
    return {"recommended_gain": _difference(others, followed, np.ones(bins))}


def _slope(first: Bins, second: Bins) -> dict[str, Mean]:
    """Return the slope of the observed on the predicted benefit; nothing if an arm has one benefit everywhere."""
    slopes = []
    for arm in (first, second):
        total = float(arm.weights.sum())
        centred = arm.benefit - float(arm.weights @ arm.benefit) / total
        spread = float(arm.weights @ centred**2)
        if spread <= 1e-12 * total:
            return {}
        slope = float(centred @ arm.outcomes) / spread
        line = float(arm.outcomes.sum()) / total + slope * centred
        squares = arm.seconds - 2 * line * arm.square_outcomes + line**2 * arm.squares
        slopes.append(Mean(slope, float(centred**2 @ squares) / spread**2))
    return {"benefit_slope": Mean(slopes[1].value - slopes[0].value, slopes[0].variance + slopes[1].variance)}


def _estimate(mean: Mean, count: int) -> Estimate:
    """Return a mean with its normal interval."""
    return estimate(mean.value, normal(mean.value, math.sqrt(mean.variance)), count)
