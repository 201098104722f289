"""Cox regression: a second, naive version of it; and what has no answer says why."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from components.analytics.cox import Derivatives, newton
from components.analytics.plan import Disclosure
from components.analytics.records import AskScore
from components.analytics.regression import Regression
from components.analytics.table import Floats, open_cohort
from components.errors import DataError
from tests.components.analytics.hospitals import analysed, analysis, columns, patients, split, study


def naive_log_likelihood(b: np.ndarray, rows: np.ndarray, times: np.ndarray, died: np.ndarray, ties: str) -> float:
    """Event by event, as the formula says it."""
    risk, total = np.exp(rows @ b), 0.0
    for time in np.unique(times[died]):
        tied = np.flatnonzero((times == time) & died)
        for place, patient in enumerate(tied):
            taken = place / len(tied) * risk[tied].sum() if ties == "efron" else 0.0
            total += rows[patient] @ b - np.log(risk[times >= time].sum() - taken)
    return float(total)


def regression(frame: pd.DataFrame, sites: int = 3, **cox: object) -> Regression:
    divided = split(frame, np.arange(len(frame)) % sites)
    found = analysed(divided, study(list(divided), methods=["cox"], cox=cox)).cox
    assert found is not None
    return found


def naive(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.stack([frame["arm"] == "drug", (frame["age"] - 59) / 41], axis=1).astype(float)
    return rows, frame["time"].to_numpy(), frame["died"].to_numpy() == 1


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_both_ways_with_ties_equal_the_formula(ties: str) -> None:
    frame = patients(11, ties=20)
    found = regression(frame, covariates=["arm", "age"], ties=ties, stratify="none")
    rows, times, died = naive(frame)
    best = minimize(lambda b: -naive_log_likelihood(b, rows, times, died, ties), np.zeros(2), tol=1e-12)
    assert np.allclose(found.fit.coefficients, best.x, atol=1e-5)
    assert found.fit.log_likelihood == pytest.approx(-best.fun, abs=1e-9)


def test_efron_and_breslow_differ_with_ties_only() -> None:
    for ties, same in ((20, False), (1, True)):
        frame = patients(11, 60, ties=ties)
        if same:
            frame["time"] = np.arange(1, 61)
        efron, breslow = (regression(frame, covariates=["arm"], ties=way).coefficients for way in ("efron", "breslow"))
        assert (abs(efron[0] - breslow[0]) < 1e-9) == same


def weighted_score(w: np.ndarray, b: np.ndarray, rows: np.ndarray, times: np.ndarray, died: np.ndarray) -> np.ndarray:
    """Efron's score where each patient counts `w` times: what one more of a patient would add is its residual."""
    risk, total = w * np.exp(rows @ b), np.zeros(len(b))
    for time in np.unique(times[died]):
        at, tied = times >= time, (times == time) & died
        total += w[tied] @ rows[tied]
        for place in range(tied.sum()):
            shares = risk * (at - place / tied.sum() * tied)
            total -= w[tied].mean() * (shares @ rows) / shares.sum()
    return total


@pytest.mark.parametrize("ties", [1, 20])
def test_robust_errors_are_made_of_what_one_more_of_a_patient_adds(ties: int) -> None:
    frame, step = patients(5, 80, ties=ties), 1e-5
    found = regression(frame, covariates=["arm", "age"], stratify="none")
    at, (rows, times, died) = found.fit.coefficients, naive(frame)
    moves = step * np.eye(80)
    residuals = [
        (weighted_score(1 + move, at, rows, times, died) - weighted_score(1 - move, at, rows, times, died)) / (2 * step)
        for move in moves
    ]
    squares = np.transpose(residuals) @ residuals
    errors = np.sqrt(np.diag(found.fit.covariance @ squares @ found.fit.covariance)) / [1, 41]
    assert np.allclose(found.robust_errors, errors, rtol=1e-6)


def test_robust_errors_with_ties_equal_a_jackknife_closely() -> None:
    frame = patients(5, 150, ties=7)
    found = regression(frame, sites=1, covariates=["arm", "age"])
    left = [regression(frame.drop(index=row), sites=1, covariates=["arm", "age"]).coefficients for row in frame.index]
    jackknife = np.sqrt(((np.array(left) - found.coefficients) ** 2).sum(axis=0))
    assert np.allclose(found.robust_errors, jackknife, rtol=0.06)


def test_a_covariate_whose_effect_wears_off_is_not_proportional() -> None:
    rng = np.random.default_rng(0)
    arm = rng.integers(0, 2, 800)
    early = rng.exponential(np.where(arm == 1, 120, 30))
    late = 40 + rng.exponential(np.where(arm == 1, 30, 120))
    time = np.where(early < 40, early, late)
    frame = patients(0, 800).assign(
        time=np.ceil(time).clip(1, 199).astype(int), died=(time < 199) * 1, arm=np.array(["placebo", "drug"])[arm]
    )
    check = regression(frame, covariates=["arm", "age"]).proportionality
    assert check is not None
    assert check.p[0] < 1e-6
    assert check.p[1] > 0.001
    assert check.total_p < 1e-6


def test_a_covariate_that_separates_is_named() -> None:
    frame = patients(2).assign(arm="placebo")
    frame.loc[frame["died"] == 0, "arm"] = "drug"
    with pytest.raises(DataError, match=r"arm: drug.*(separates|goes on growing)"):
        regression(frame, covariates=["arm", "age"])


def test_a_regression_that_does_not_converge_names_what_goes_on_growing() -> None:
    def evaluate(at: Floats) -> Derivatives:  # -exp(-b): the best b is beyond all bounds, each step is one long
        height = np.exp(-at)
        return Derivatives(-float(height.sum()), height, np.diag(height))

    said = r"did not converge in 10 steps: the coefficient of arm: drug goes on growing.*leave it out, or join its rare"
    with pytest.raises(DataError, match=said):
        newton(evaluate, ["arm: drug"])


def test_a_covariate_that_is_constant_is_named() -> None:
    with pytest.raises(DataError, match=r"no single answer: age is constant"):
        regression(patients(2).assign(age=50), covariates=["arm", "age"])


def test_a_site_without_events_changes_nothing_of_a_regression_stratified_by_site() -> None:
    frame = patients(4, 200)
    quiet = patients(5, 30).assign(died=0)
    sites = split(frame, np.arange(200) % 2)
    alone = analysed(sites, study(list(sites), methods=["cox"]))
    beside = analysed({**sites, "site-9": quiet}, study([*sites, "site-9"], methods=["cox"]))
    assert alone.cox is not None
    assert beside.cox is not None
    assert np.allclose(beside.cox.coefficients, alone.cox.coefficients, atol=1e-12)
    assert "site-9 has no events; it counts among those at risk only." in beside.notes


def test_risk_sums_are_refused_under_control_unless_grouping_was_agreed() -> None:
    frame = patients(3, 900)
    sites = split(frame, np.arange(900) % 3)
    cox = {"stratify": "none", "covariates": ["arm"]}
    refused = analysed(sites, study(list(sites), methods=["cox"], cox=cox, disclosure={"smallest_cell": 5}))
    assert refused.cox is None
    assert "ask for cox.stratify: site" in refused.left_out["Cox regression"]["site-0"]
    agreed = {"smallest_cell": 5, "risk_sets": "grouped"}
    grouped = analysed(sites, study(list(sites), methods=["cox"], cox=cox, disclosure=agreed)).cox
    exact = analysed(sites, study(list(sites), methods=["cox"], cox=cox)).cox
    assert grouped is not None
    assert exact is not None
    assert 0 < abs(grouped.coefficients[0] - exact.coefficients[0]) < exact.errors[0]
    whole = study(list(sites), methods=["cox"], cox=cox, disclosure=agreed)
    assert any("risk sets over groups" in note for note in analysed(sites, whole).notes)


def test_how_few_patients_lack_a_covariate_is_not_the_difference_of_what_is_told() -> None:
    frame = patients(3, 600)
    frame["age"] = frame["age"].astype(float)
    for few, told in ((2, 600), (12, 588)):
        missing = frame.copy()
        missing.loc[missing.index[:few], "age"] = np.nan
        sites = {"a": missing}
        found = analysed(sites, study(["a"], methods=["cox"], disclosure={"smallest_cell": 5})).cox
        exact = analysed(sites, study(["a"], methods=["cox"])).cox
        assert found is not None
        assert exact is not None
        assert (found.patients, exact.patients) == (told, 600 - few)
        assert found.coefficients == exact.coefficients


def test_a_site_with_too_few_rows_for_its_columns_is_left_out_and_named() -> None:
    frame = patients(3, 420)
    sites = split(frame, np.where(np.arange(420) < 24, 9, np.arange(420) % 2))
    found = analysed(sites, study(list(sites), methods=["cox"], disclosure={"smallest_cell": 3}))
    assert found.cox is not None
    assert found.cox.sites == ["site-0", "site-1"]
    assert (
        "entries" in found.left_out["Cox regression"]["site-9"] or "fewer" in found.left_out["Cox regression"]["site-9"]
    )


def test_coefficients_that_are_none_are_refused() -> None:
    from components.analytics.answering import answer
    from components.errors import RefusedError

    plan = analysis()
    cohort = open_cohort(columns(patients(1)), plan)
    with pytest.raises(RefusedError, match="1 coefficients was asked for at 2"):
        answer(AskScore(covariates=["arm"], coefficients=[0.0, 1.0]), cohort, plan, Disclosure(smallest_cell=1))
    with pytest.raises(RefusedError, match="columns that the study does not have"):
        answer(AskScore(covariates=["hiv"], coefficients=[0.0]), cohort, plan, Disclosure(smallest_cell=1))
