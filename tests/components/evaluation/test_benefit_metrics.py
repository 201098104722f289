"""Gain of the recommended arm, uplift and Qini, calibration of benefit: against naive versions and known truth."""

import math

import numpy as np
import pytest

from components.evaluation.benefit import Predicted, treatment_sums
from components.evaluation.benefit_metrics import (
    benefit_calibration,
    benefit_metrics,
    overlap,
    overlap_warnings,
    uplift_curve,
)
from components.evaluation.intervals import Estimate
from components.rounds import TreatmentSums

BINS = 2000  # so fine that a patient has a bin of his own


def drawn(count: int, *, seed: int, ranked: bool = True, confounded: bool = False) -> Predicted:
    """Patients with a known benefit of mean 0.1, predicted rightly or (not `ranked`) by chance."""
    random = np.random.default_rng(seed)
    truth = random.uniform(-0.3, 0.5, count)
    given = 1 / (1 + np.exp(-4 * truth)) if confounded else np.full(count, 0.4)
    arm = random.random(count) < given
    wanted = random.random(count) < 0.4 + truth * arm
    return Predicted(truth if ranked else random.permutation(truth), given, arm, wanted)


def told(found: Predicted, bins: int = BINS) -> TreatmentSums:
    sums = treatment_sums(found, bins=bins, smallest_cell=1)
    assert sums is not None
    return sums


def metrics(found: Predicted) -> dict[str, Estimate]:
    return benefit_metrics(told(found), BINS)


def test_the_effect_is_the_difference_of_two_proportions() -> None:
    found = drawn(600, seed=1)
    one, other = found.wanted[found.arm], found.wanted[~found.arm]
    error = math.sqrt(one.var() / len(one) + other.var() / len(other))
    effect = metrics(found)["effect"]
    assert effect.value == pytest.approx(one.mean() - other.mean(), rel=1e-9)
    assert (effect.high - effect.low) / 2 == pytest.approx(1.959964 * error, rel=1e-6)
    assert effect.support == 600


def test_the_gain_compares_who_was_given_the_recommended_arm_with_who_was_not() -> None:
    found = drawn(600, seed=2)
    weight = np.where(found.arm, 1 / 0.4, 1 / 0.6)
    right = (found.benefit > 0) == found.arm
    means = [np.average(found.wanted[side], weights=weight[side]) for side in (right, ~right)]
    gain = metrics(found)["recommended_gain"]
    assert gain.value == pytest.approx(means[0] - means[1], rel=1e-9)
    errors = [
        math.sqrt((weight[side] ** 2 * (found.wanted[side] - mean) ** 2).sum()) / weight[side].sum()
        for side, mean in zip((right, ~right), means, strict=True)
    ]
    assert (gain.high - gain.low) / 2 == pytest.approx(1.959964 * math.hypot(*errors), rel=1e-6)


def test_qini_and_auuc_are_the_areas_of_the_curve() -> None:
    found = drawn(600, seed=3)
    parts, gains = uplift_curve(told(found), BINS)
    area = float(np.trapezoid(gains, parts))
    result = metrics(found)
    assert result["auuc"].value == pytest.approx(area, rel=1e-9)
    assert result["qini"].value == pytest.approx(area - gains[-1] / 2, rel=1e-9)
    assert gains[-1] == pytest.approx(result["effect"].value, rel=1e-9)
    # naive: patient by patient, Radcliffe's curve of the outcome less its mean
    order = np.argsort(-found.benefit)
    weight = np.where(found.arm, 1 / 0.4, 1 / 0.6)
    centred = found.wanted - np.average(found.wanted, weights=weight)
    treated, others = (np.where(side, weight, 0.0) for side in (found.arm, ~found.arm))
    steps = (centred * (treated / treated.sum() - others / others.sum()))[order]
    naive = np.concatenate([[0.0], steps.cumsum()])
    assert area == pytest.approx(np.trapezoid(naive, np.linspace(0, 1, 601)), abs=2e-4)


def test_the_slope_is_the_interaction_of_a_linear_regression() -> None:
    found = drawn(600, seed=4)
    design = np.stack([np.ones(600), found.benefit, found.arm, found.arm * found.benefit], axis=1)
    naive, *_ = np.linalg.lstsq(design, found.wanted.astype(float))
    assert metrics(found)["benefit_slope"].value == pytest.approx(naive[3], abs=2e-3)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Known: effect 0.1; slope 1; offset 0; the gain, from the truth's distribution; each in 400 draws of 300."""
    big = np.random.default_rng(0).uniform(-0.3, 0.5, 1_000_000)
    gain = np.abs(big).mean()  # E[tau | followed] - E[not]: tau for those advised, -tau for the others
    truth = {"effect": 0.1, "benefit_slope": 1.0, "benefit_offset": 0.0, "recommended_gain": gain}
    held = dict.fromkeys(truth, 0)
    for seed in range(400):
        found = metrics(drawn(300, seed=1000 + seed))
        for name, value in truth.items():
            held[name] += found[name].low <= value <= found[name].high
    # 400 draws at 95 %: 380 +- 3.5 standard deviations of 4.4
    assert all(count >= 364 for count in held.values()), held
    assert all(count <= 396 for count in held.values()), held


def test_a_ranking_by_chance_has_no_qini_and_a_right_one_has() -> None:
    by_chance = [metrics(drawn(600, seed=seed, ranked=False))["qini"] for seed in range(40)]
    assert sum(item.low <= 0 <= item.high for item in by_chance) >= 34
    assert all(metrics(drawn(3000, seed=seed))["qini"].low > 0 for seed in range(5))


def test_weights_take_away_what_the_features_tell_of_who_is_given_what() -> None:
    found = drawn(20_000, seed=5, confounded=True)
    naive = found.wanted[found.arm].mean() - found.wanted[~found.arm].mean()
    effect = metrics(found)["effect"]
    assert naive > 0.15  # those whom it helps are given it
    assert effect.low <= 0.1 <= effect.high


def test_calibration_follows_the_diagonal_where_predictions_are_right() -> None:
    found = benefit_calibration(told(drawn(20_000, seed=6)), BINS)
    assert [place for place, _ in found] == pytest.approx([-0.22, -0.06, 0.1, 0.26, 0.42], abs=0.02)
    assert sum(item.low <= place <= item.high for place, item in found) >= 4
    assert sum(item.support for _, item in found) == 20_000


def test_a_model_that_says_one_thing_of_everybody_has_no_slope() -> None:
    found = drawn(200, seed=7)
    same = Predicted(np.full(200, 0.2), found.given, found.arm, found.wanted)
    result = metrics(same)
    assert "benefit_slope" not in result
    assert result["recommended_gain"].value == pytest.approx(result["effect"].value)


def test_fewer_than_two_patients_of_an_arm_say_nothing() -> None:
    found = Predicted(np.array([0.1, 0.2, 0.3]), np.full(3, 0.5), np.array([True, False, False]), np.ones(3, bool))
    assert metrics(found) == {}


def test_bad_overlap_is_said() -> None:
    random = np.random.default_rng(8)
    given = np.where(random.random(400) < 0.2, 0.03, 0.5)
    arm = random.random(400) < given
    arm[np.flatnonzero(given < 0.1)[:5]] = True
    found = told(Predicted(random.uniform(-0.2, 0.2, 400), given, arm, random.random(400) < 0.5))
    assert overlap(found)[:, 0].tolist() == [int(((given < 0.05) & ~arm).sum()), int(((given < 0.05) & arm).sum())]
    said = overlap_warnings(found)
    assert said[0].startswith(f"Overlap: {int(((given < 0.1) & arm).sum())} of 400 test patients")
    assert any("of the second arm count as" in text for text in said)
    assert overlap_warnings(told(drawn(400, seed=9))) == []
