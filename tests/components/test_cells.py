"""What is told apart never rests on too few rows, in no part, and nothing is lost."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from components.bin_edges import CELLS, bin_edges, cell_counts
from components.cells import merged, told_apart
from components.features import Feature

AGE = Feature(name="age", range=[0, 256])


@st.composite
def parts(draw: Any, most: int = 3) -> list[list[int]]:
    cells, number = draw(st.integers(1, 8)), draw(st.integers(1, most))
    return [draw(st.lists(st.integers(0, 9), min_size=cells, max_size=cells)) for _ in range(number)]


@given(counts=parts(), smallest=st.integers(1, 8))
def test_merged_groups_have_no_row_or_enough_in_every_part(counts: list[list[int]], smallest: int) -> None:
    groups = merged([[cell] for cell in range(len(counts[0]))], counts, smallest)
    assert [cell for group in groups for cell in group] == list(range(len(counts[0])))
    few = [0 < sum(part) < smallest for part in counts]
    if any(few):
        assert len(groups) == 1
    else:
        told = [sum(part[cell] for cell in group) for group in groups for part in counts]
        assert not [count for count in told if 0 < count < smallest]


@given(counts=parts(), smallest=st.integers(1, 8))
def test_cells_without_an_order_are_told_with_enough_rows_and_so_are_the_others(
    counts: list[list[int]], smallest: int
) -> None:
    told = told_apart(range(len(counts[0])), counts, smallest)
    others = [cell for cell in range(len(counts[0])) if cell not in told]
    for part in counts:
        assert not [cell for cell in told if 0 < part[cell] < smallest]
        if sum(part) == 0 or sum(part) >= smallest:
            assert not 0 < sum(part[cell] for cell in others) < smallest


def test_nothing_is_merged_where_every_row_may_be_told() -> None:
    assert merged([[0], [1], [2]], [[1, 0, 1]], 1) == [[0], [1], [2]]
    assert told_apart([0, 1, 2], [[1, 0, 1]], 1) == [0, 1, 2]


def test_cells_of_a_number_keep_its_rows_in_number_and_nearly_in_place() -> None:
    values = [float(value % 250) + 0.5 for value in range(0, 1000, 7)]
    exact, told = cell_counts(AGE, values, 1), cell_counts(AGE, values, 5)
    assert len(told) == CELLS
    assert sum(told) == sum(exact) == len(values)
    assert min(count for count in told if count) >= 5
    assert min(count for count in exact if count) == 1
    assert max(abs(a - b) for a, b in zip(bin_edges(AGE, exact, 4), bin_edges(AGE, told, 4), strict=True)) <= 8


def test_a_value_at_the_end_of_the_range_is_counted() -> None:
    assert cell_counts(AGE, [256.0], 1)[CELLS - 1] == 1
    assert cell_counts(AGE, [0.0], 1)[0] == 1


def test_one_value_in_all_rows_has_no_edge() -> None:
    assert bin_edges(AGE, cell_counts(AGE, [40.0] * 9, 5), 8) == []
