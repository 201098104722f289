"""Sums of survival predictions against lifelines and loops; and what is refused of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index

from components.errors import RefusedError
from components.evaluation.histograms import add_sums
from components.evaluation.survival_metrics import survival_outcomes
from components.evaluation.survival_sums import (
    RAREST,
    calibration_sums,
    censoring_of,
    check_survival,
    pair_sums,
    survival_sums,
)
from components.rounds import ScoreSums
from components.survival import Grid, Survival

TASK = Survival(unit="years", horizons=[4.0, 8.0], grid=Grid(end=10.0, cells=10))


def predicted(count: int, seed: int, *, whole: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return risk scores, chances at the edges, and labels of exponential times, of which a third is censored."""
    random = np.random.default_rng(seed)
    risk = random.normal(size=count)
    hazard = 0.1 * np.exp(risk)
    died, ended = random.exponential(1 / hazard), random.uniform(1, 15, count)
    times = np.minimum(died, ended)
    labels = np.stack([np.ceil(times) if whole else times, died <= ended], axis=1).astype(float)
    return risk, np.exp(-np.outer(hazard, TASK.grid.edges)), labels


def sums_of(count: int, seed: int) -> ScoreSums:
    """Return the sums of made-up predictions."""
    risk, chances, labels = predicted(count, seed)
    found = survival_sums(risk, chances, labels, task=TASK, censoring=censoring_of(labels), smallest_cell=1)
    return ScoreSums(
        bins=10, positives=[], negatives=[], score_sums=[], squared_error=[], confusion=[],
        loss=1.5 * count, count=count, survival=found,
    )  # fmt: skip


@given(seed=st.integers(0, 1000), whole=st.booleans())
def test_pairs_are_those_of_lifelines(seed: int, whole: bool) -> None:
    risk, _, labels = predicted(60, seed, whole=whole)
    risk = np.round(risk, 1)  # some scores are equal
    found = pair_sums(risk, labels[:, 0], labels[:, 1] > 0, np.ones(60))
    assert found.concordant / found.comparable == pytest.approx(concordance_index(labels[:, 0], -risk, labels[:, 1]))


def test_weighted_pairs_and_errors_are_those_of_a_loop() -> None:
    risk, chances, labels = predicted(80, 7)
    curve = KaplanMeierFitter().fit(labels[:, 0], 1 - labels[:, 1])
    before = [max(float(curve.predict(time - 1e-9)), RAREST) for time in labels[:, 0]]
    found = survival_sums(risk, chances, labels, task=TASK, censoring=censoring_of(labels), smallest_cell=1)
    comparable = concordant = 0.0
    for i, (time, event) in enumerate(labels):
        for j, (other, _) in enumerate(labels):
            if event and time <= 8.0 and time < other and before[i] > RAREST:
                comparable += before[i] ** -2
                concordant += before[i] ** -2 * (risk[i] > risk[j])
    assert found.weighted_pairs.comparable == pytest.approx(comparable)
    assert found.weighted_pairs.concordant == pytest.approx(concordant)
    for place, until in enumerate(TASK.grid.edges):
        there = float(curve.predict(until))
        assert found.followed[place] == (80 if there >= RAREST else 0)
        if there < RAREST:
            continue
        total = sum(
            (chances[i, place] ** 2 / before[i] if event and time <= until else 0.0)
            + ((1 - chances[i, place]) ** 2 / there if time > until else 0.0)
            for i, (time, event) in enumerate(labels)
        )
        assert found.brier[place] == pytest.approx(total)


def test_the_interval_of_the_concordance_covers_as_often_as_it_says() -> None:
    covered, runs = 0, 200
    large = pair_sums(*_parts(3000, 12345))
    truth = large.concordant / large.comparable
    for seed in range(runs):
        found = survival_outcomes(sums_of(80, seed), TASK)["concordance"]
        covered += found.low <= truth <= found.high  # type: ignore[union-attr]
    assert 0.90 <= covered / runs <= 0.99


def _parts(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    risk, _, labels = predicted(count, seed)
    return risk, labels[:, 0], labels[:, 1] > 0, np.ones(count)


def test_a_perfect_model_is_calibrated_and_one_of_other_hazards_is_not() -> None:
    risk, chances, labels = predicted(4000, 2)
    censoring = censoring_of(labels)
    right, wrong = (
        survival_outcomes(
            sums_of(10, 0).model_copy(
                update={
                    "survival": survival_sums(risk, said, labels, task=TASK, censoring=censoring, smallest_cell=5),
                    "count": 4000,
                }
            ),
            TASK,
        )["calibration_ratio"]
        for said in (chances, chances**2)
    )
    assert right.low < 1.0 < right.high  # type: ignore[union-attr]
    assert wrong.high < 0.8  # type: ignore[union-attr]


def test_small_groups_are_joined_and_nothing_is_lost() -> None:
    _, chances, labels = predicted(60, 4)
    found = calibration_sums(1 - chances[:, 3], labels, 4.0, censoring_of(labels), 8)
    assert all(count == 0 or count >= 8 for count in found.counts)
    whole = calibration_sums(1 - chances[:, 3], labels, 4.0, censoring_of(labels), 1)
    assert any(0 < count < 8 for count in whole.counts)
    assert sum(found.expected) == pytest.approx(sum(whole.expected))
    assert sum(found.observed) == pytest.approx(sum(whole.observed))


def test_the_sums_of_sites_add_up_in_any_order() -> None:
    sites = [sums_of(count, seed) for seed, count in enumerate((20, 50, 33))]
    pooled = add_sums(sites)
    assert pooled == add_sums(sites[::-1])
    assert pooled.survival is not None
    assert pooled.survival.pairs.comparable == sum(site.survival.pairs.comparable for site in sites if site.survival)
    assert pooled.count == 103
    check_survival(pooled, TASK, 103)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"events": 31}, "31 events in 30 items"),
        ({"brier": [0.0] * 9}, "cells and horizons"),
        ({"followed": [31] * 10}, "cells and horizons"),
        ({"brier": [-1.0] * 10}, "out of range"),
        ({"brier": [float("nan")] * 10}, "out of range"),
        ({"calibration": []}, "cells and horizons"),
    ],
)
def test_sums_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    honest = sums_of(30, 1)
    check_survival(honest, TASK, 30)
    assert honest.survival is not None
    with pytest.raises(RefusedError, match=words):
        check_survival(honest.model_copy(update={"survival": honest.survival.model_copy(update=change)}), TASK, 30)


def test_more_concordant_pairs_than_pairs_and_more_items_than_there_are_are_refused() -> None:
    honest = sums_of(30, 1)
    assert honest.survival is not None
    pairs = honest.survival.pairs.model_copy(update={"concordant": honest.survival.pairs.comparable + 1})
    with pytest.raises(RefusedError, match="more concordant pairs"):
        check_survival(
            honest.model_copy(update={"survival": honest.survival.model_copy(update={"pairs": pairs})}), TASK, 30
        )
    with pytest.raises(RefusedError, match="30 items, the site can have 29"):
        check_survival(honest, TASK, 29)
    with pytest.raises(RefusedError, match="not one of a survival model"):
        check_survival(honest.model_copy(update={"survival": None}), TASK, 30)


def test_no_items_have_no_metric_and_say_why() -> None:
    risk, chances, labels = predicted(2, 1)
    nothing = survival_sums(
        risk[:0], chances[:0], labels[:0], task=TASK, censoring=censoring_of(labels), smallest_cell=5
    )
    empty = sums_of(5, 1).model_copy(update={"survival": nothing, "count": 0, "loss": 0.0})
    check_survival(empty, TASK, 0)
    outcomes = survival_outcomes(empty, TASK)
    assert all(hasattr(outcome, "reason") for outcome in outcomes.values())


def test_a_site_says_nothing_of_times_that_it_does_not_follow_patients_until() -> None:
    risk, chances, labels = predicted(60, 4)
    labels[:, 1] = np.where(labels[:, 0] > 3, 0.0, labels[:, 1])
    labels[:, 0] = np.minimum(labels[:, 0], 3.0)  # observation ends at 3 years
    found = survival_sums(risk, chances, labels, task=TASK, censoring=censoring_of(labels), smallest_cell=5)
    assert [count > 0 for count in found.followed] == [True] * 2 + [False] * 8
    assert found.brier[2:] == [0.0] * 8
    assert sum(found.calibration[0].counts) == 0
    outcomes = survival_outcomes(sums_of(60, 1).model_copy(update={"survival": found}), TASK)
    for name in ("brier", "integrated_brier", "calibration_ratio"):
        assert outcomes[name].reason == "no site follows enough of its patients until then"  # type: ignore[index, union-attr]
    assert outcomes["concordance"].value > 0.5  # type: ignore[union-attr]
