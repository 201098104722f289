"""Seconds per round, and the bound on the first step."""

import pytest

from benchmarks.readings import seconds_per_round


def test_steady_rounds_leave_out_the_first_two() -> None:
    assert seconds_per_round([10.0, 13.0, 14.0, 16.0]) == pytest.approx(1.5)
    assert seconds_per_round([10.0, 13.0, 14.0, 16.0], first=2) == pytest.approx(2.0)


@pytest.mark.parametrize(("rounds", "first"), [([1.0, 2.0], 3), ([1.0, 2.0], 1), ([], 3)])
def test_too_few_rounds_are_refused(rounds: list[float], first: int) -> None:
    with pytest.raises(ValueError, match=r"first must be from 2 to"):
        seconds_per_round(rounds, first)
