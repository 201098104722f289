"""What leaves a site is no small cell, and no difference of what leaves is one either."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.analytics.disclosure import (
    WithheldError,
    cumulatively_rounded,
    grouped_times,
    joined_bins,
    require_enough_rows,
    suppress,
)
from components.analytics.plan import Disclosure
from components.analytics.survival import count_exits
from components.analytics.table import open_cohort
from tests.components.analytics.hospitals import analysis, columns, patients

FIVE = Disclosure(smallest_cell=5)
rows = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@given(rows)
def test_nothing_small_is_told_nor_given_away_by_the_total(counts: list[int]) -> None:
    told = suppress(counts, FIVE)
    assert all(cell is None or cell == 0 or cell >= 5 for cell in told)
    hidden = [count for count, cell in zip(counts, told, strict=True) if cell is None]
    if sum(counts) >= 5 and hidden:
        assert sum(hidden) >= 5
        assert len(hidden) >= 2


@given(rows)
def test_what_is_large_enough_everywhere_is_told(counts: list[int]) -> None:
    large = [count + 5 if count else 0 for count in counts]
    assert suppress(large, FIVE) == large


def test_the_complement_of_a_single_small_cell_is_kept_back_too() -> None:
    assert suppress([3, 50, 8], FIVE) == [None, 50, None]


@given(rows)
def test_bins_are_joined_until_none_is_small_and_nobody_is_lost(counts: list[int]) -> None:
    if 0 < sum(counts) < 5:
        with pytest.raises(WithheldError, match="fewer than 5"):
            joined_bins(counts, FIVE)
        return
    ends, sizes = joined_bins(counts, FIVE)
    assert sum(sizes) == sum(counts)
    assert all(size >= 5 for size in sizes)
    assert ends == sorted(set(ends))


def test_the_last_bin_says_nothing_of_the_highest_value() -> None:
    assert joined_bins([9, 9, 0, 0, 0], FIVE) == joined_bins([9, 8, 0, 1, 0], FIVE) == ([0, 4], [9, 9])


@given(st.integers(0, 1000), st.integers(2, 9))
def test_no_time_that_leaves_is_that_of_a_few(seed: int, smallest: int) -> None:
    rng = np.random.default_rng(seed)
    cells, kinds = rng.integers(0, 60, 80), rng.integers(0, 3, 80)
    new = grouped_times(cells, kinds, smallest)
    for kind in range(3):
        _, sizes = np.unique(new[kinds == kind], return_counts=True)
        assert sizes.min() >= smallest
        old_order = np.argsort(cells[kinds == kind], kind="stable")
        assert (np.diff(new[kinds == kind][old_order]) >= 0).all()
        assert abs(new[kinds == kind].mean() - cells[kinds == kind].mean()) <= 0.5


def test_few_events_of_an_arm_keep_the_site_back_as_the_total_would_tell_them() -> None:
    frame = patients(1, 60).assign(died=0)
    frame.loc[frame.index[:3], "died"] = 1
    plan = analysis()
    with pytest.raises(WithheldError, match="fewer than 5 patients of an arm are with an event"):
        count_exits(open_cohort(columns(frame), plan), plan, FIVE)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(2, 10))
def test_rounded_counts_add_up_to_the_rounded_total(counts: list[int], base: int) -> None:
    told = cumulatively_rounded(counts, Disclosure(rounding=base))
    assert all(cell % base == 0 and cell >= 0 for cell in told)
    assert abs(sum(told) - sum(counts)) <= base / 2


def test_a_regression_may_not_tell_more_numbers_than_the_table_has_entries() -> None:
    require_enough_rows(100, 3, 300, FIVE)
    with pytest.raises(WithheldError, match=r"301 numbers.*300 entries"):
        require_enough_rows(100, 3, 301, FIVE)
    require_enough_rows(100, 3, 301, Disclosure(smallest_cell=1))


def test_the_stricter_of_two_policies_holds_in_every_field() -> None:
    mild = Disclosure(smallest_cell=3, rounding=10, queries=50, risk_sets="grouped")
    assert mild.stricter(FIVE) == Disclosure(smallest_cell=5, rounding=10, queries=50, risk_sets="refuse")
