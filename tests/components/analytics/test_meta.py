"""Effects of sites together, and the size of a trial: numbers worked by hand."""

import math

import numpy as np
import pytest

from components.analytics.meta import Effect, combine
from components.analytics.plan import Power
from components.analytics.power import sample_size


def test_der_simonian_and_laird_by_hand() -> None:
    found = combine([Effect(0.1, 0.1), Effect(0.5, 0.2), Effect(0.9, 0.2)])
    weights = np.array([100.0, 25.0, 25.0])
    mean = (10 + 12.5 + 22.5) / 150
    q = float((weights * (np.array([0.1, 0.5, 0.9]) - mean) ** 2).sum())
    between = (q - 2) / (150 - (100**2 + 25**2 + 25**2) / 150)
    assert found.fixed.value == pytest.approx(0.3)
    assert found.fixed.error == pytest.approx(150**-0.5)
    assert found.heterogeneity == pytest.approx(q)
    assert found.between == pytest.approx(between)
    assert found.inconsistency == pytest.approx((q - 2) / q)
    new = 1 / (np.array([0.01, 0.04, 0.04]) + between)
    assert found.random.value == pytest.approx(float((new * [0.1, 0.5, 0.9]).sum() / new.sum()))


def test_equal_effects_are_one_effect_with_either_model() -> None:
    found = combine([Effect(0.4, 0.1)] * 4)
    assert found.fixed.value == pytest.approx(0.4)
    assert found.random.value == pytest.approx(0.4)
    assert (found.between, found.inconsistency) == (0.0, 0.0)
    alone = combine([Effect(0.4, 0.1)])
    assert alone.fixed.value == pytest.approx(0.4)
    assert alone.inconsistency == 0.0
    assert math.isnan(alone.p)


def test_schoenfelds_and_freedmans_events() -> None:
    size = sample_size(Power(hazard_ratio=0.7), event_share=0.4, events_here=247)
    z = (1.959964 + 0.841621) ** 2
    assert size.events == math.ceil(4 * z / math.log(0.7) ** 2) == 247
    assert size.events_freedman == math.ceil(z * (1.7 / 0.3) ** 2) == 253
    assert size.patients == math.ceil(247 / 0.4)
    assert size.power_here == pytest.approx(0.8, abs=0.002)


def test_the_power_of_the_formula_is_that_of_simulated_trials() -> None:
    rng, plan = np.random.default_rng(0), Power(hazard_ratio=0.6)
    events = sample_size(plan, event_share=1.0, events_here=1).events
    won = 0
    for _ in range(400):
        arm = np.arange(events) % 2
        order = np.argsort(rng.exponential(1 / np.where(arm == 1, 0.6, 1.0)))
        drug = arm[order]
        risk, at = drug[::-1].cumsum()[::-1], np.arange(events, 0, -1)
        gap, spread = (drug - risk / at).sum(), (risk / at * (1 - risk / at)).sum()
        won += gap**2 / spread > 3.8415
    assert won / 400 == pytest.approx(0.8, abs=0.06)
