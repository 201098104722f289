"""Sums of predicted benefits: what a site tells, what is added, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from components.errors import RefusedError
from components.evaluation.benefit import (
    Predicted,
    add_treatment,
    benefit_warnings,
    treatment_sums,
)
from components.evaluation.benefit_checks import check_treatment
from components.evaluation.benefit_figures import Scale, benefit_figures
from components.evaluation.benefit_metrics import benefit_metrics, untold_benefits
from components.rounds import BenefitMoments, TreatmentSums
from tests.references.tiny_treatment import survival_changes, treatment_study, x_learner

BINS = 20


def patients(count: int, *, seed: int = 0, share: float = 0.5) -> Predicted:
    """Patients whose benefit is what is predicted; half are given the second arm."""
    random = np.random.default_rng(seed)
    benefit = random.uniform(-0.4, 0.4, count)
    arm = random.random(count) < share
    wanted = random.random(count) < 0.5 + benefit * arm
    return Predicted(benefit, np.full(count, share), arm, wanted)


def told(found: Predicted, smallest_cell: int = 1) -> TreatmentSums:
    sums = treatment_sums(found, bins=BINS, smallest_cell=smallest_cell)
    assert sums is not None
    return sums


def test_sums_worked_by_hand() -> None:
    found = Predicted(
        benefit=np.array([-0.55, 0.0, 0.05, 0.05, 0.31]),
        given=np.array([0.5, 0.5, 0.8, 0.8, 0.25]),
        arm=np.array([False, True, False, True, True]),
        wanted=np.array([True, False, True, True, True]),
    )
    first, second = told(found).arms
    # a benefit of 0 speaks for the first arm: it lies in the bin below 0
    assert (first.bins, second.bins) == ([4, 10], [9, 10, 13])
    assert (first.patients, second.patients) == ([1, 1], [1, 1, 1])
    assert first.weights == pytest.approx([2.0, 5.0])
    assert second.weights == pytest.approx([2.0, 1.25, 4.0])
    assert first.squares == pytest.approx([4.0, 25.0])
    assert second.outcomes == pytest.approx([0.0, 1.25, 4.0])
    assert second.square_outcomes == pytest.approx([0.0, 1.5625, 16.0])
    assert second.benefits == pytest.approx([0.0, 0.05, 0.31])
    assert (first.overlap_bins, second.overlap_bins) == ([10, 16], [5, 10, 16])


def test_two_sites_added_are_both_in_one_place() -> None:
    north, south = patients(300, seed=1), patients(200, seed=2)
    both = Predicted(*(np.concatenate([getattr(north, name), getattr(south, name)])
                       for name in ("benefit", "given", "arm", "wanted")))  # fmt: skip
    added = add_treatment([told(north), told(south)])
    assert added is not None
    for one, other in zip(added.arms, told(both).arms, strict=True):
        assert (one.bins, one.patients) == (other.bins, other.patients)
        for name in ("benefits", "weights", "squares", "outcomes", "square_outcomes"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)
    assert add_treatment([told(south), told(north)]) == added
    assert add_treatment([]) is None


@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_is_told_rests_on_too_few_patients_and_nobody_is_lost(seed: int) -> None:
    found, smallest = patients(500, seed=seed, share=0.3), 5
    sums = told(found, smallest)
    for number, arm in enumerate(sums.arms):
        mine = found.arm == bool(number)
        weight = 1 / 0.3 if number else 1 / 0.7
        wanted = np.array(arm.outcomes) / weight
        for count, having in zip(arm.patients, wanted.round().astype(int), strict=True):
            assert count >= smallest
            assert not 0 < having < smallest
            assert not 0 < count - having < smallest
        assert all(count >= smallest for count in arm.overlap)
        assert sum(arm.patients) == sum(arm.overlap) == mine.sum()
        assert sum(arm.outcomes) == pytest.approx(weight * found.wanted[mine].sum())
        assert sum(arm.benefits) == pytest.approx(found.benefit[mine].sum())
    assert max(len(arm.bins) for arm in sums.arms) > 1


def test_joined_groups_keep_to_their_side_of_no_benefit() -> None:
    found = patients(400, seed=3)
    sums = told(found, 5)
    for number, arm in enumerate(sums.arms):
        above = sum(count for place, count in zip(arm.bins, arm.patients, strict=True) if place >= BINS // 2)
        assert above == ((found.benefit > 0) & (found.arm == bool(number))).sum()


def few_events(count: int, *, seed: int) -> Predicted:
    """Patients of whom one in six dies before the horizon, most of them in the arm that the model does not advise."""
    random = np.random.default_rng(seed)
    benefit, arm = random.uniform(-0.4, 0.4, count), random.random(count) < 0.5
    died = random.random(count) < np.where((benefit > 0) == arm, 0.12, 0.25)
    outcome = np.where(died, random.uniform(0.1, 0.9, count), 1.0)
    return Predicted(benefit, np.full(count, 0.5), arm, ~died, outcome, np.ones(count))


def test_a_site_too_small_to_be_ranked_tells_all_of_the_gain_and_of_the_slope() -> None:
    """What its patients tell with disclosure control is what they tell without, and none of them is in a group."""
    found = few_events(64, seed=2)
    controlled, plain = told(found, 5), told(found)
    assert [arm.bins for arm in controlled.arms] == [[], []]
    assert [sum(arm.patients) for arm in controlled.whole] == [sum(arm.patients) for arm in plain.arms]
    known, expected = benefit_metrics(controlled, BINS), benefit_metrics(plain, BINS)
    assert known.keys() == {"effect", "benefit_offset", "recommended_gain", "benefit_slope"}
    assert untold_benefits(known) == dict.fromkeys(
        ["qini", "auuc"], "too few patients for more than one group of like benefit"
    )
    for name, item in known.items():
        assert item.value == pytest.approx(expected[name].value, rel=1e-9)
        assert item.low == pytest.approx(expected[name].low, rel=1e-9)


def test_nobody_is_drawn_who_is_not_ranked() -> None:
    small, large = told(few_events(64, seed=2), 5), told(patients(400, seed=3), 5)
    scale = Scale(BINS, 1.0, "probability of well", ("drug: no", "drug: yes"))
    assert benefit_figures({"small": small}, small, scale).keys() == {"figures/overlap.png"}
    both = add_treatment([small, large])
    assert both is not None
    drawn = benefit_figures({"small": small, "large": large}, both, scale)
    assert drawn.keys() == {"figures/overlap.png", "figures/uplift.png", "figures/benefit.png"}
    without = add_treatment([told(patients(400, seed=3), 5)])
    assert without is not None
    assert drawn["figures/benefit.png"] == benefit_figures({"large": large}, without, scale)["figures/benefit.png"]


def test_the_advised_are_told_of_where_neither_side_nor_its_events_are_too_few() -> None:
    found = few_events(200, seed=2)
    assert told(found, 5).advice is not None
    followed = (found.benefit > 0) == found.arm
    died = np.flatnonzero(~found.wanted & followed)
    wanted = found.wanted.copy()
    wanted[died[2:]] = True
    assert told(replace(found, wanted=wanted), 5).advice is None
    wanted[died] = True
    assert told(replace(found, wanted=wanted), 5).advice is not None


def test_moments_are_told_of_arms_with_more_patients_than_these_are_numbers() -> None:
    found = few_events(400, seed=2)
    sick = np.concatenate([np.flatnonzero(~found.wanted & (found.arm == arm))[:6] for arm in (False, True)])
    well = np.concatenate([np.flatnonzero(found.wanted & (found.arm == arm))[:11] for arm in (False, True)])
    enough = np.sort(np.concatenate([sick, well]))
    assert told(chosen(found, enough), 5).moments is not None
    assert told(chosen(found, np.setdiff1d(enough, well[:1])), 5).moments is None


def chosen(found: Predicted, rows: np.ndarray) -> Predicted:
    return Predicted(**{name: value[rows] for name, value in vars(found).items()})


def test_a_site_with_too_few_of_an_arm_tells_nothing() -> None:
    found = patients(60, seed=4)
    few = found.arm & (np.cumsum(found.arm) > 3)
    only = Predicted(found.benefit, found.given, found.arm & ~few, found.wanted)
    assert treatment_sums(only, bins=BINS, smallest_cell=5) is None
    nobody = Predicted(found.benefit, found.given, np.zeros(60, dtype=bool), found.wanted)
    assert treatment_sums(nobody, bins=BINS, smallest_cell=1) is None


def test_a_benefit_that_is_not_finite_is_refused() -> None:
    found = patients(10)
    found.benefit[3] = np.nan
    with pytest.raises(RefusedError, match="benefits are not finite"):
        treatment_sums(found, bins=BINS, smallest_cell=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patients": [1, 2, 3]}, "not as many as their groups"),
        ({"bins": [11, 4]}, "do not rise"),
        ({"bins": [4, 20]}, "beyond the study's"),
        ({"weights": [2.0, float("inf")]}, "not finite"),
        ({"weights": [2.0, 0.5]}, "none of so many people"),
        ({"weights": [2.0, 51.0]}, "none of so many people"),
        ({"outcomes": [2.0, 9.0]}, "none of so many people"),
        ({"benefits": [-1.5, 0.0]}, "none of so many people"),
        ({"patients": [1, 90], "weights": [2.0, 180.0], "squares": [4.0, 400.0]}, "more than the 3 patients"),
    ],
)
def test_sums_that_no_evaluation_gives_are_refused(change: dict[str, list[float]], words: str) -> None:
    found = Predicted(
        np.array([-0.55, 0.05, 0.3]), np.full(3, 0.5), np.array([False, False, True]), np.array([True, False, True])
    )
    sums = told(found)
    check_treatment(sums, bins=BINS, most_items=3)
    spoilt = sums.model_copy(update={"arms": [sums.arms[0].model_copy(update=change), sums.arms[1]]})
    with pytest.raises(RefusedError, match=words):
        check_treatment(spoilt, bins=BINS, most_items=3)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    sums = told(few_events(64, seed=2), 5)
    check_treatment(sums, bins=BINS, most_items=64, survival=True)
    assert sums.advice is not None
    assert sums.moments is not None
    one, other = sums.moments
    beyond = BenefitMoments(once=[*one.once[:4], 1e6], twice=one.twice)
    endless = BenefitMoments(once=one.once, twice=[*one.twice[:11], float("nan")])
    for change, words in (
        ({"advice": told(few_events(70, seed=2)).advice}, "of others by what is recommended than by arm"),
        ({"advice": [sums.arms[0], told(few_events(300, seed=1)).arms[1]]}, "groups where there can be one"),
        ({"moments": [other, one]}, "of others than their groups"),
        ({"moments": [beyond, other]}, "none of so many people"),
        ({"moments": [endless, other]}, "not finite"),
    ):
        with pytest.raises(RefusedError, match=words):
            check_treatment(sums.model_copy(update=change), bins=BINS, most_items=400, survival=True)


def test_warnings_are_there_exactly_where_nobody_drew_lots_and_where_intervals_are_too_narrow() -> None:
    single = {"treatment": {"learner": "single"}, "network": {"name": "MLP"}}
    observed = {"arm": {"randomised": False, "propensity": None}}
    begins = ["NOT RANDOMISED: nobody drew lots for drug", "INTERVALS TOO NARROW: a single learner draws"]
    for changes, words in (({}, []), (observed, begins[:1]), (single, begins[1:]), (single | observed, begins)):
        said = benefit_warnings(treatment_study(**changes))
        assert len(said) == len(words)
        assert all(text.startswith(start) for text, start in zip(said, words, strict=True))
    assert benefit_warnings(treatment_study(treatment={"learner": "x"})) == []
    lines = x_learner(**survival_changes())
    assert benefit_warnings(treatment_study(**lines))[0].startswith(
        "INTERVALS TOO NARROW: the effects of this X-learner"
    )
    assert benefit_warnings(treatment_study(**lines | {"network": {"name": "MLP"}})) == []
