"""Calibration slope and intercept against scikit-learn's maximum likelihood; net benefit by hand and naively."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from components.evaluation.histograms import add_sums, sums_from_scores
from components.evaluation.intervals import Estimate, Undefined
from components.evaluation.metrics import estimate_metrics
from components.evaluation.recalibration import calibration_line, net_benefit
from components.rounds import ScoreSums

CLASSES = ("well", "ill")


def sums(score: np.ndarray, ill: np.ndarray, bins: int = 1000) -> ScoreSums:
    return sums_from_scores(score, ill, kind="binary", classes=CLASSES, bins=bins, threshold=0.5)


def drawn(slope: float, intercept: float, items: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true calibration line is this one."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, items)
    ill = random.random(items) < 1 / (1 + np.exp(-(intercept + slope * logits)))
    return 1 / (1 + np.exp(-logits)), ill.astype(int)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.0), (1.8, -0.7)])
def test_slope_is_that_of_a_logistic_regression_on_the_logits(slope: float, intercept: float) -> None:
    score, ill = drawn(slope, intercept)
    oracle = LogisticRegression(C=1e12, tol=1e-12, max_iter=1000).fit(np.log(score / (1 - score))[:, None], ill)
    found = estimate_metrics(sums(score, ill, bins=10_000), kind="binary", threshold=0.5, classes=CLASSES)
    assert found["calibration_slope"].value == pytest.approx(oracle.coef_[0, 0], abs=1e-3)
    assert found["calibration_slope"].low < slope < found["calibration_slope"].high


def test_intercept_makes_as_many_expected_as_there_are() -> None:
    score, ill = drawn(1.0, -0.7)
    found = estimate_metrics(sums(score, ill, bins=10_000), kind="binary", threshold=0.5, classes=CLASSES)
    shift = found["calibration_intercept"].value
    shifted = 1 / (1 + np.exp(-(np.log(score / (1 - score)) + shift)))
    assert shifted.sum() == pytest.approx(ill.sum(), rel=1e-4)
    assert found["calibration_intercept"].low < -0.7 < found["calibration_intercept"].high


def test_the_intervals_cover_what_is_true() -> None:
    hits = {"slope": 0, "intercept": 0}
    for seed in range(200):
        found = estimate_metrics(sums(*drawn(1.0, 0.0, 300, seed)), kind="binary", threshold=0.5, classes=CLASSES)
        hits["slope"] += found["calibration_slope"].low <= 1 <= found["calibration_slope"].high
        hits["intercept"] += found["calibration_intercept"].low <= 0 <= found["calibration_intercept"].high
    assert min(hits.values()) >= 182, hits  # 95 % of 200, less 2.6 standard deviations


@pytest.mark.parametrize(
    ("score", "ill", "reason"),
    [
        ([0.2, 0.8], [0, 0], "no item has the class"),
        ([0.2, 0.8], [1, 1], "every item has the class"),
        ([], [], "no item has the class"),
        ([0.4, 0.4, 0.4], [0, 1, 0], "all items have the same score"),
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], "the scores tell the classes apart without an error"),
    ],
)
def test_where_there_is_no_line_the_reason_is_given(score: list[float], ill: list[int], reason: str) -> None:
    made = sums(np.array(score), np.array(ill))
    positives, negatives = np.array(made.positives[0]), np.array(made.negatives[0])
    means = np.array(made.score_sums[0]) / np.maximum(positives + negatives, 1)
    slope, _ = calibration_line(positives, negatives, means)
    assert slope == Undefined(reason)


def test_an_intercept_is_there_where_the_classes_are_separated() -> None:
    made = sums(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    positives, negatives = np.array(made.positives[0]), np.array(made.negatives[0])
    means = np.array(made.score_sums[0]) / np.maximum(positives + negatives, 1)
    assert isinstance(calibration_line(positives, negatives, means)[1], Estimate)


def test_scores_of_0_and_1_have_no_line_and_do_no_harm() -> None:
    slope, _ = calibration_line(np.array([0, 1, 1]), np.array([1, 0, 4]), np.array([0.0, 0.999, 1.0]))
    assert slope == Undefined("nearly all scores are 0 or 1")


@given(st.lists(st.tuples(st.integers(0, 19), st.booleans()), min_size=1, max_size=60))
def test_net_benefit_is_what_counting_patients_gives(patients: list[tuple[int, bool]]) -> None:
    score = np.array([(place + 0.5) / 20 for place, _ in patients])
    ill = np.array([int(is_ill) for _, is_ill in patients])
    made = sums(score, ill, bins=20)
    thresholds, benefit, everybody = net_benefit(np.array(made.positives[0]), np.array(made.negatives[0]))
    for threshold, found, all_treated in zip(thresholds, benefit, everybody, strict=True):
        treated, odds = score >= threshold, threshold / (1 - threshold)
        assert found == pytest.approx(((treated & (ill == 1)).sum() - odds * (treated & (ill == 0)).sum()) / len(ill))
        assert all_treated == pytest.approx((ill.sum() - odds * (1 - ill).sum()) / len(ill))


def test_the_line_of_the_federation_is_that_of_all_items_together() -> None:
    score, ill = drawn(1.3, 0.2)
    parts = [sums(score[start::3], ill[start::3]) for start in range(3)]
    whole = estimate_metrics(sums(score, ill), kind="binary", threshold=0.5, classes=CLASSES)
    pooled = estimate_metrics(add_sums(parts), kind="binary", threshold=0.5, classes=CLASSES)
    assert pooled["calibration_slope"].value == pytest.approx(whole["calibration_slope"].value, abs=1e-9)
