"""Whether the hospitals agree: against numbers by hand, by chance alone, and where one has its arms the wrong way."""

import numpy as np
import pytest

from components.evaluation.benefit import Predicted, treatment_sums
from components.evaluation.benefit_metrics import benefit_metrics
from components.evaluation.intervals import Estimate
from components.site_effects import FEWEST, agreement_remark, agreement_warnings, agreements

Rows = dict[str, dict[str, Estimate]]
SITES = ("canada", "europe", "midwest", "northeast", "south", "west")


def told(value: float, error: float, patients: int = 100) -> Estimate:
    return Estimate(value, value - 1.959963984540054 * error, value + 1.959963984540054 * error, patients)


def drawn(seed: int, count: int, swapped: str = "", mean: float = 0.0) -> Rows:
    """What hospitals find out of patients with a known benefit, rightly predicted; one may have swapped arms."""
    random, found = np.random.default_rng(seed), {}
    for site in SITES:
        benefit, arm = random.uniform(-0.4, 0.4, count) + mean, random.random(count) < 0.5
        wanted = random.random(count) < 0.5 + benefit * (arm - 0.5)
        sums = treatment_sums(
            Predicted(benefit, np.full(count, 0.5), arm != (site == swapped), wanted), bins=200, smallest_cell=5
        )
        assert sums is not None
        found[site] = benefit_metrics(sums, 200)
    return found


def test_q_and_i_squared_are_those_by_hand() -> None:
    rows = {"a": {"effect": told(0.1, 0.1)}, "b": {"effect": told(0.4, 0.1)}}
    [found] = agreements(rows)
    # mean 0.25; ((0.15 / 0.1)^2) twice; I^2 = (4.5 - 1) / 4.5
    assert found.combined.heterogeneity == pytest.approx(4.5)
    assert found.combined.inconsistency == pytest.approx(3.5 / 4.5)
    assert agreement_remark([found]) == (
        "Between the hospitals: mean effect of the second arm: Cochran's Q 4.5 with 1 df, p 0.03, I² 78 %."
    )
    assert agreement_warnings([found]) == []


def test_hospitals_that_agree_are_hardly_ever_warned_of() -> None:
    said = [agreement_warnings(agreements(drawn(seed, 60))) for seed in range(200)]
    # two measures at 0.2 % each by a normal law, several times that by so rough standard errors
    assert sum(map(bool, said)) <= 8


def test_a_hospital_with_swapped_arms_is_named_though_the_mean_effect_is_none() -> None:
    said = [agreement_warnings(agreements(drawn(seed, 200, swapped="south"))) for seed in range(20)]
    named = [[text.partition(":")[0] for text in texts if "labels, swapped" in text] for texts in said]
    assert sum(names == ["south"] for names in named) >= 18
    assert all(names in ([], ["south"]) for names in named)


def test_swapped_arms_turn_the_mean_effect_round_as_well() -> None:
    found = agreements(drawn(3, 400, swapped="west", mean=0.25))
    assert [(item.measure, item.opposed) for item in found] == [("effect", ("west",)), ("benefit_slope", ("west",))]
    said = agreement_warnings(found)
    assert said[0].startswith("The hospitals differ in the mean effect of the second arm by more than chance (Coch")
    assert said[-1].startswith("west: mean effect of the second arm -0.")
    assert said[-1].endswith(
        "the opposite of what the other hospitals see: are its arms, or its labels, swapped, "
        "or are its patients unlike the others'?"
    )


def test_of_two_hospitals_that_oppose_each_other_nobody_knows_which_is_swapped() -> None:
    found = agreements({"a": {"effect": told(0.3, 0.05)}, "b": {"effect": told(-0.3, 0.05)}})
    assert found[0].opposed == ()
    assert "differ in the mean effect" in agreement_warnings(found)[0]


def test_a_hospital_with_few_patients_or_without_metrics_is_left_out() -> None:
    rows: Rows = {"a": {"effect": told(0.1, 0.1)}, "b": {"effect": told(0.1, 0.1, FEWEST - 1)}, "c": {}}
    assert agreements(rows) == []
    assert agreement_remark([]) == ""
    assert [set(item.by_site) for item in agreements(rows | {"d": {"effect": told(0.2, 0.1)}})] == [{"a", "d"}]
