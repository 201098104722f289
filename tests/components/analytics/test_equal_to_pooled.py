"""What sites tell adds up to what lifelines finds in the pooled table, however patients are divided over sites."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test, multivariate_logrank_test, proportional_hazard_test

from tests.components.analytics.hospitals import analysed, patients, split, study

CLOSE = 1e-6
splits = st.tuples(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([1, 7, 20]))


def divided(draw: tuple[int, int, int]) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    seed, sites, ties = draw
    frame = patients(seed, ties=ties)
    places = np.random.default_rng(seed + 1).choice(
        sites, len(frame), p=np.arange(1, sites + 1) / sum(range(sites + 1))
    )
    return frame, split(frame, places)


def indicators(frame: pd.DataFrame) -> pd.DataFrame:
    found = pd.DataFrame({"arm: drug": (frame["arm"] == "drug") * 1.0, "age": frame["age"] * 1.0})
    return found.assign(II=(frame["stage"] == "II") * 1.0, III=(frame["stage"] == "III") * 1.0,
                        time=frame["time"], died=frame["died"])  # fmt: skip


@settings(max_examples=25)
@given(splits)
def test_kaplan_meier_and_greenwood_equal_the_pooled_ones(draw: tuple[int, int, int]) -> None:
    frame, sites = divided(draw)
    found = analysed(sites, study(list(sites), methods=["kaplan_meier"]))
    for arm, curve, exits in zip(("placebo", "drug"), found.survival, found.exits, strict=True):
        rows = frame[frame["arm"] == arm]
        pooled = KaplanMeierFitter().fit(rows["time"], rows["died"])
        assert np.array_equal(curve.times, pooled.survival_function_.index)
        assert np.allclose(curve.values, pooled.survival_function_.iloc[:, 0], atol=CLOSE, rtol=0)
        ends = np.stack([curve.low, curve.high], axis=1)
        assert np.allclose(ends, pooled.confidence_interval_, atol=CLOSE, rtol=0)
        assert np.array_equal(exits.at_risk, pooled.event_table["at_risk"].iloc[1:])


@settings(max_examples=25)
@given(splits)
def test_both_logrank_tests_equal_the_pooled_ones(draw: tuple[int, int, int]) -> None:
    frame, sites = divided(draw)
    found = analysed(sites, study(list(sites), methods=["logrank"]))
    drug = frame["arm"] == "drug"
    pooled = logrank_test(frame["time"][~drug], frame["time"][drug], frame["died"][~drug], frame["died"][drug])
    assert found.logrank["pooled"].statistic == pytest.approx(pooled.test_statistic, abs=CLOSE)
    assert found.logrank["pooled"].p == pytest.approx(pooled.p_value, abs=CLOSE)
    whole = multivariate_logrank_test(frame["time"], frame["arm"], frame["died"])
    assert found.logrank["pooled"].statistic == pytest.approx(whole.test_statistic, abs=CLOSE)
    if len(sites) == 1:
        assert found.logrank["stratified by site"].statistic == pytest.approx(pooled.test_statistic, abs=CLOSE)


@settings(max_examples=15)
@given(splits)
def test_cox_with_one_baseline_hazard_equals_the_pooled_one(draw: tuple[int, int, int]) -> None:
    frame, sites = divided(draw)
    found = analysed(sites, study(list(sites), methods=["cox"], cox={"stratify": "none"})).cox
    assert found is not None
    pooled = CoxPHFitter().fit(indicators(frame), "time", "died", fit_options={"precision": 1e-12})
    assert np.allclose(found.coefficients, pooled.params_, atol=CLOSE, rtol=0)
    assert np.allclose(found.errors, pooled.standard_errors_, atol=CLOSE, rtol=0)
    assert found.fit.log_likelihood == pytest.approx(pooled.log_likelihood_, abs=CLOSE)
    proportional = proportional_hazard_test(pooled, indicators(frame), time_transform="identity")
    assert found.proportionality is not None
    assert np.allclose(found.proportionality.statistics, proportional.test_statistic, atol=1e-4, rtol=1e-4)


@settings(max_examples=15)
@given(splits)
def test_cox_stratified_by_site_equals_the_pooled_one(draw: tuple[int, int, int]) -> None:
    frame, sites = divided(draw)
    found = analysed(sites, study(list(sites), methods=["cox"])).cox
    assert found is not None
    rows = indicators(frame).assign(site="")
    for site, own in sites.items():
        rows.loc[own.index, "site"] = site
    pooled = CoxPHFitter().fit(rows, "time", "died", strata=["site"], fit_options={"precision": 1e-12})
    assert np.allclose(found.coefficients, pooled.params_, atol=CLOSE, rtol=0)
    assert np.allclose(found.errors, pooled.standard_errors_, atol=CLOSE, rtol=0)


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_robust_errors_equal_the_pooled_ones_without_ties(seed: int) -> None:
    frame = patients(seed, 100)
    frame["time"] = np.random.default_rng(seed).permutation(200)[:100] + 1
    sites = split(frame, np.arange(100) % 3)
    found = analysed(sites, study(list(sites), methods=["cox"], cox={"stratify": "none"})).cox
    assert found is not None
    pooled = CoxPHFitter().fit(indicators(frame), "time", "died", robust=True, fit_options={"precision": 1e-12})
    assert np.allclose(found.robust_errors, pooled.standard_errors_, atol=CLOSE, rtol=0)


def test_with_disclosure_control_the_methods_stratified_by_site_stay_exact() -> None:
    frame = patients(3, 600)
    sites = split(frame, np.arange(600) % 3)
    free = analysed(sites, study(list(sites)))
    held = analysed(sites, study(list(sites), disclosure={"smallest_cell": 5}))
    assert free.cox is not None
    assert held.cox is not None
    assert held.cox.coefficients == free.cox.coefficients
    assert held.logrank["stratified by site"] == free.logrank["stratified by site"]
    assert not held.left_out


def test_with_disclosure_control_curves_keep_their_totals_and_move_little() -> None:
    frame = patients(3, 600)
    sites = split(frame, np.arange(600) % 3)
    free, held = (
        analysed(sites, study(list(sites), disclosure={"smallest_cell": cell}, horizon=120.0)) for cell in (1, 5)
    )
    assert any("joined in groups" in note for note in held.notes)
    for exact, coarse in zip(free.exits, held.exits, strict=True):
        assert coarse.events.sum() == exact.events.sum()
        assert coarse.patients == exact.patients
    grid = np.arange(0, 150, 5)
    gaps = [max(abs(a.at(t) - b.at(t)) for t in grid) for a, b in zip(free.survival, held.survival, strict=True)]
    assert 0 < max(gaps) < 0.08  # a group of 5 is that much of the 60 who are at risk in the end
    for exact_mean, coarse_mean in zip(free.means, held.means, strict=True):
        assert abs(exact_mean.mean - coarse_mean.mean) < exact_mean.error / 2
