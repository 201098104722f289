import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from components.evaluation.curves import auroc, average_precision, roc_points, tie_mass
from components.evaluation.histograms import Floats, Integers
from components.evaluation.intervals import Estimate, Outcome, Undefined, wilson


def value(outcome: Outcome) -> Estimate:
    assert isinstance(outcome, Estimate)
    return outcome


def histograms(scores: Floats, truth: Integers, bins: int) -> tuple[Integers, Integers]:
    slots = np.minimum((scores * bins).astype(int), bins - 1)
    return np.bincount(slots[truth == 1], minlength=bins), np.bincount(slots[truth == 0], minlength=bins)


def beta_scores(rng: np.random.Generator, items: int, prevalence: float = 0.3) -> tuple[Floats, Integers]:
    truth = (rng.random(items) < prevalence).astype(int)
    return np.where(truth == 1, rng.beta(4, 2, items), rng.beta(2, 4, items)), truth


def test_auroc_and_delong_worked_by_hand() -> None:
    # Positives in bins 1 and 2, negatives in 0 and 1. Pairs: (1,0) 1, (1,1) 1/2, (2,0) 1, (2,1) 1: 3.5 of 4.
    # V10 = 3/4 and 1, V01 = 1 and 3/4, each with variance 1/32: Var = 1/64 + 1/64 = 1/32.
    result = value(auroc(np.array([0, 1, 1]), np.array([1, 1, 0])))
    half = 1.959964 * math.sqrt(1 / 32) / (7 / 64)
    assert result.value == 0.875
    assert result.low == pytest.approx(1 / (1 + math.exp(-(math.log(7) - half))), abs=1e-6)
    assert result.high == pytest.approx(1 / (1 + math.exp(-(math.log(7) + half))), abs=1e-6)


def test_average_precision_worked_by_hand() -> None:
    # From the top: bin 2 finds 1 of 2 at precision 1; bin 1 finds the other at precision 2/3.
    assert value(average_precision(np.array([0, 1, 1]), np.array([1, 1, 0]))).value == pytest.approx(5 / 6)


@pytest.mark.parametrize("bins", [10, 200, 10_000])
def test_curves_are_scikit_learns_on_the_binned_scores_and_near_it_on_the_exact_ones(bins: int) -> None:
    scores, truth = beta_scores(np.random.default_rng(bins), 800)
    positives, negatives = histograms(scores, truth, bins)
    binned = np.minimum(np.floor(scores * bins), bins - 1)
    area = value(auroc(positives, negatives)).value
    assert area == pytest.approx(roc_auc_score(truth, binned), abs=1e-12)
    assert abs(area - roc_auc_score(truth, scores)) <= tie_mass(positives, negatives) / 2 + 1e-12
    precision = value(average_precision(positives, negatives)).value
    assert precision == pytest.approx(average_precision_score(truth, binned), abs=1e-12)


def test_scores_that_crowd_near_zero_still_keep_the_stated_bound() -> None:
    rng = np.random.default_rng(3)
    truth = (rng.random(3000) < 0.02).astype(int)
    scores = np.where(truth == 1, rng.beta(1, 30, 3000), rng.beta(0.3, 60, 3000))
    positives, negatives = histograms(scores, truth, 1000)
    distance = abs(value(auroc(positives, negatives)).value - roc_auc_score(truth, scores))
    assert 0 < distance <= tie_mass(positives, negatives) / 2


def delong_by_pairs(positive: Floats, negative: Floats) -> tuple[float, float]:
    """Area and its variance over all pairs, as DeLong et al. write it."""
    psi = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = psi.mean(axis=1).var(ddof=1) / len(positive) + psi.mean(axis=0).var(ddof=1) / len(negative)
    return float(psi.mean()), float(variance)


def test_the_interval_is_delongs_over_all_pairs() -> None:
    scores, truth = beta_scores(np.random.default_rng(4), 150)
    binned = np.floor(scores * 50)
    area, variance = delong_by_pairs(binned[truth == 1], binned[truth == 0])
    result = value(auroc(*histograms(scores, truth, 50)))
    width = math.log(result.high / (1 - result.high)) - math.log(result.low / (1 - result.low))
    assert width / (2 * 1.959964) * area * (1 - area) == pytest.approx(math.sqrt(variance), rel=1e-5)


def test_the_variance_of_average_precision_is_that_of_a_bootstrap() -> None:
    rng = np.random.default_rng(6)
    scores, truth = beta_scores(rng, 400)
    result = value(average_precision(*histograms(scores, truth, 100)))
    drawn = [rng.integers(0, 400, 400) for _ in range(600)]
    repeats = [value(average_precision(*histograms(scores[i], truth[i], 100))).value for i in drawn]
    width = math.log(result.high / (1 - result.high)) - math.log(result.low / (1 - result.low))
    assert width / (2 * 1.959964) * result.value * (1 - result.value) == pytest.approx(np.std(repeats), rel=0.12)


@pytest.mark.parametrize(("items", "prevalence"), [(120, 0.5), (400, 0.15)])
def test_intervals_cover_the_truth_as_often_as_they_say(items: int, prevalence: float) -> None:
    rng = np.random.default_rng(7)
    truths = [
        value(curve(*histograms(*beta_scores(rng, 400_000, prevalence), 500))).value
        for curve in (auroc, average_precision)
    ]
    hits = np.zeros(2)
    for _ in range(800):
        counts = histograms(*beta_scores(rng, items, prevalence), 500)
        results = [value(curve(*counts)) for curve in (auroc, average_precision)]
        hits += [result.low <= truth <= result.high for result, truth in zip(results, truths, strict=True)]
    assert (hits / 800 >= 0.925).all(), hits / 800
    assert (hits / 800 <= 0.985).all(), hits / 800


def test_a_perfect_separation_does_not_promise_certainty() -> None:
    result = value(auroc(np.array([0, 12]), np.array([40, 0])))
    assert (result.value, result.high) == (1.0, 1.0)
    assert result.low == wilson(12, 12)[0]
    assert value(average_precision(np.array([0, 12]), np.array([40, 0]))).low == wilson(12, 12)[0]


def test_one_positive_item_gives_a_wide_interval() -> None:
    result = value(auroc(np.array([0, 0, 1, 0]), np.array([5, 5, 5, 5])))
    assert result.value == 0.625
    assert result.high - result.low > 0.25


@pytest.mark.parametrize("curve", [auroc, average_precision])
def test_one_class_only_is_undefined_and_says_why(curve: type) -> None:
    assert curve(np.array([0, 0]), np.array([3, 1])) == Undefined("no item has the class")
    assert curve(np.array([3, 1]), np.array([0, 0])) == Undefined("every item has the class")


def test_the_area_under_the_roc_points_is_the_auroc() -> None:
    counts = histograms(*beta_scores(np.random.default_rng(8), 300), 20)
    false, true = roc_points(*counts)
    assert np.trapezoid(true, false) == pytest.approx(value(auroc(*counts)).value)
