import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.intervals import Estimate, Undefined, bounded, estimate_text, mean_of, wilson


def test_wilson_gives_the_numbers_of_newcombe_1998() -> None:
    # Newcombe (1998), Stat Med 17:857, table I, method 3.
    for successes, trials, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)]:
        assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2000), st.floats(0, 1))
def test_wilson_ends_are_where_the_score_test_rejects(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            z = abs(successes / trials - end) / math.sqrt(end * (1 - end) / trials)
            assert z == pytest.approx(1.959964, rel=1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5), (float("nan"), 5)])
def test_wilson_refuses_impossible_counts(successes: float, trials: int) -> None:
    with pytest.raises(ValueError, match="needs 0 <= successes"):
        wilson(successes, trials)


def test_a_bounded_interval_stays_inside_and_never_promises_certainty() -> None:
    low, high = bounded(0.99, 0.02, effective_items=10)
    assert 0 < low < 0.99 < high < 1
    assert bounded(1.0, 0.0, effective_items=10) == wilson(10, 10)
    assert bounded(0.5, 0.0, effective_items=4) == wilson(2, 4)


def test_the_mean_of_disjoint_estimates_has_a_narrower_interval_than_of_the_same_items() -> None:
    estimates = [Estimate(0.8, 0.6, 0.9, 30), Estimate(0.6, 0.4, 0.8, 50)]
    disjoint, same = mean_of(estimates, disjoint=True), mean_of(estimates, disjoint=False)
    assert (same.value, same.low, same.high, same.support) == pytest.approx((0.7, 0.5, 0.85, 50))
    assert disjoint.low == pytest.approx(0.7 - math.sqrt(0.2**2 + 0.2**2) / 2)
    assert disjoint.high == pytest.approx(0.7 + math.sqrt(0.1**2 + 0.2**2) / 2)
    assert disjoint.support == 80


def test_a_mean_with_an_undefined_part_is_undefined() -> None:
    assert mean_of([Estimate(0.5, 0.4, 0.6, 3), Undefined("no item")], disjoint=False) == Undefined("no item")


@pytest.mark.parametrize("numbers", [(0.5, 0.6, 0.7), (math.nan, 0.1, 0.2), (0.5, 0.1, math.inf)])
def test_an_estimate_outside_its_interval_or_not_finite_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="finite low <= value <= high"):
        Estimate(*numbers, 10)


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    for truth, trials in [(0.05, 40), (0.5, 20), (0.93, 100)]:
        ends = [wilson(int(successes), trials) for successes in rng.binomial(trials, truth, 3000)]
        assert 0.93 <= np.mean([low <= truth <= high for low, high in ends]) <= 0.985


def test_estimate_text() -> None:
    assert estimate_text(Estimate(0.934, 0.9, 0.951, 200), digits=3) == "0.934 [0.900 to 0.951]"
    assert estimate_text(None) == "-"
