"""The made-up trial: what is known of it holds of what was drawn."""

import numpy as np
import pytest

from components.data.known_effects import TrialPlan, draw_trial


def column(plan: TrialPlan, name: str) -> np.ndarray:
    trial = draw_trial(plan)
    return np.array([row[trial.columns.index(name)] for row in trial.rows])


def test_equal_plans_draw_equal_trials_and_other_seeds_others() -> None:
    one, again, other = (draw_trial(TrialPlan(patients=50, seed=seed)) for seed in (1, 1, 2))
    assert one.rows == again.rows
    assert one.rows != other.rows
    assert np.array_equal(one.benefit, again.benefit)


def test_relapses_are_as_frequent_as_the_known_chances_in_either_arm() -> None:
    plan = TrialPlan(patients=20_000)
    trial, relapse, arm = draw_trial(plan), column(plan, "outcome") == "relapse", column(plan, "drug") == "yes"
    for number in (0, 1):
        mine = arm == bool(number)
        for half in (trial.benefit > 0, trial.benefit <= 0):
            chosen = mine & half
            error = np.sqrt(0.25 / chosen.sum())
            assert relapse[chosen].mean() == pytest.approx(trial.chances[chosen, number].mean(), abs=4 * error)


def test_survival_is_as_long_as_the_known_hazards_say() -> None:
    plan = TrialPlan(patients=8_000)
    trial, days, arm = draw_trial(plan), column(plan, "days").astype(float), column(plan, "drug") == "yes"
    # everybody is seen for a year at least: up to then nothing is censored, and the mean is a plain one
    for number in (0, 1):
        mine = arm == bool(number)
        observed = np.minimum(days[mine], 365.0)
        error = observed.std() / np.sqrt(mine.sum())
        # days are rounded up: half a day on average for those who die in the year
        assert observed.mean() == pytest.approx(trial.mean_survival(365.0)[mine, number].mean(), abs=4 * error + 0.5)


def test_some_are_helped_and_some_harmed() -> None:
    benefit = draw_trial(TrialPlan()).benefit
    assert 0.3 < (benefit > 0).mean() < 0.7
    assert benefit.std() > 0.1


def test_the_cohort_is_not_randomised_and_the_trial_is() -> None:
    for randomised in (True, False):
        plan = TrialPlan(randomised=randomised)
        trial, arm = draw_trial(plan), column(plan, "drug") == "yes"
        assert (np.ptp(trial.propensity) == 0) == randomised
        bands = np.digitize(trial.propensity, [0.25, 0.5, 0.75])
        for band in np.unique(bands):
            chosen = bands == band
            error = np.sqrt(0.25 / chosen.sum())
            assert arm[chosen].mean() == pytest.approx(trial.propensity[chosen].mean(), abs=4 * error)


def test_a_trial_needs_genes() -> None:
    with pytest.raises(ValueError, match="5 genes at least"):
        TrialPlan(genes=2)
