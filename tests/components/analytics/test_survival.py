"""Survival from counts: literal numbers, lifelines, and a bootstrap."""

import numpy as np
import pandas as pd
import pytest
from lifelines import AalenJohansenFitter, KaplanMeierFitter
from lifelines.utils import restricted_mean_survival_time

from components.analytics.disclosure import FREE
from components.analytics.records import ArmExits
from components.analytics.survival import (
    Exits,
    aalen_johansen,
    count_exits,
    groups_of,
    kaplan_meier,
    median_time,
    restricted_mean,
    spread,
)
from components.analytics.table import open_cohort
from tests.components.analytics.hospitals import analysis, columns, patients

# Freireich's 21 patients on 6-MP, weeks of remission; + is censored (Cox 1972).
WEEKS = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]


def exits_of(times: list[int], events: list[int]) -> Exits:
    frame = pd.DataFrame({"time": times, "died": events, "arm": "drug", "age": 50, "stage": "I"})
    plan = analysis(event={"column": "died", "causes": ["death", "other"]})
    return groups_of({"a": count_exits(open_cohort(columns(frame), plan), plan, FREE)}, plan)[1]


def test_kaplan_meier_of_freireichs_patients() -> None:
    curve = kaplan_meier(exits_of(WEEKS, RELAPSED))
    assert [round(curve.at(week), 4) for week in (0, 6, 7, 10, 13, 16, 22, 23, 35)] == [
        1.0, 0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482, 0.4482,
    ]  # fmt: skip
    assert round(float(curve.errors[curve.times == 23][0]), 4) == 0.1346
    assert median_time(curve) == 23


def test_numbers_at_risk_count_who_leaves_at_that_time() -> None:
    assert exits_of(WEEKS, RELAPSED).still_at_risk([0, 6, 10, 35, 36]) == [21, 21, 15, 1, 0]


def test_the_restricted_mean_equals_lifelines() -> None:
    for horizon in (5.0, 20.0, 35.0, 150.0):
        for seed in range(3):
            frame = patients(seed)
            fitted = KaplanMeierFitter().fit(frame["time"], frame["died"])
            mean = restricted_mean(exits_of(frame["time"].tolist(), frame["died"].tolist()), horizon).mean
            assert mean == pytest.approx(restricted_mean_survival_time(fitted, t=horizon), abs=1e-9)


def test_the_restricted_means_error_is_that_of_a_bootstrap() -> None:
    frame, rng = patients(1, 200), np.random.default_rng(0)
    found = restricted_mean(exits_of(frame["time"].tolist(), frame["died"].tolist()), 100.0)
    again = []
    for _ in range(400):
        rows = frame.iloc[rng.integers(0, 200, 200)]
        again.append(restricted_mean(exits_of(rows["time"].tolist(), rows["died"].tolist()), 100.0).mean)
    assert found.error == pytest.approx(np.std(again), rel=0.12)


def test_aalen_johansen_equals_lifelines_without_ties() -> None:
    rng = np.random.default_rng(2)
    times, causes = rng.permutation(200)[:120], rng.integers(0, 3, 120)
    exits = exits_of((times + 1).clip(max=200).tolist(), causes.tolist())
    for cause in (0, 1):
        pooled = AalenJohansenFitter().fit(times + 1, causes, event_of_interest=cause + 1)
        curve = aalen_johansen(exits, cause)
        assert np.allclose(curve.values, pooled.cumulative_density_.iloc[:, 0], atol=1e-6)
        variance = pooled.variance_.to_numpy().ravel()
        told = ~np.isnan(variance)  # lifelines has none where the last patient has the event
        assert told[:-1].all()
        assert np.allclose(curve.errors[told] ** 2, variance[told], atol=1e-6)


def test_incidences_and_survival_add_up_to_one() -> None:
    rng = np.random.default_rng(4)
    exits = exits_of(rng.integers(1, 50, 150).tolist(), rng.integers(0, 3, 150).tolist())
    total = kaplan_meier(exits).values + aalen_johansen(exits, 0).values + aalen_johansen(exits, 1).values
    assert np.allclose(total, 1.0, atol=1e-12)


def test_groups_that_are_spread_keep_their_totals_and_means() -> None:
    groups = ArmExits(cells=[10, 20, 50, 90], events=[[5, 0, 7, 0], [0, 6, 0, 5]], censored=[0, 5, 0, 9])
    found = spread(groups, 200)
    for before, after in zip((*groups.events, groups.censored), (*found.events, found.censored), strict=True):
        assert sum(after) == sum(before)
        assert np.average(found.cells, weights=after) == pytest.approx(
            np.average(groups.cells, weights=before), abs=0.3
        )
    assert max(found.events[0]) < 5
    assert spread(ArmExits(cells=[0, 200], events=[[5, 5]], censored=[0, 0]), 200).cells == [0, 200]


def test_an_event_at_time_zero_lowers_the_start() -> None:
    curve = kaplan_meier(exits_of([0, 0, 5, 90], [1, 0, 1, 0]))
    assert curve.times[0] == 0
    assert curve.at(0) == 0.75
