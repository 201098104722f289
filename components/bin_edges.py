"""Where the bins of a number end: quantiles of the rows of all sites, from counts in small cells of its range."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from components.cells import merged, middle
from components.features import Feature

CELLS = 256  # equal parts of a number's range, in which a site counts its rows


def cell_counts(feature: Feature, values: Sequence[float], smallest_cell: int) -> list[int]:
    """Count a number's values in equal cells of its declared range.

    Args:
        feature: A numeric feature with a range.
        values: Its values, all within the range.
        smallest_cell: Fewest rows behind a count that is told, if there are so many.

    Returns:
        `CELLS` counts. Neighbours with too few rows are added up, in the middle one of them.

    >>> counts = cell_counts(Feature(name="age", range=[0, 256]), [3.5] * 6 + [7.5] * 2 + [9.0] * 4, 5)
    >>> {cell: count for cell, count in enumerate(counts) if count}
    {3: 6, 8: 6}
    """
    assert feature.range is not None  # the study's check
    low, high = feature.range
    exact = [0] * CELLS
    for value in values:
        exact[min(max(int((value - low) / (high - low) * CELLS), 0), CELLS - 1)] += 1
    told = [0] * CELLS
    for group in merged([[cell] for cell in range(CELLS)], [exact], smallest_cell):
        told[middle(group)] += sum(exact[cell] for cell in group)
    return told


def bin_edges(feature: Feature, counts: Sequence[int], bins: int) -> list[float]:
    """Return the edges between the bins of a number, as equal in rows as the cells allow.

    Args:
        feature: A numeric feature with a range.
        counts: `CELLS` counts, of all sites together.
        bins: Bins at the most; edges that would be the same are left out.

    >>> bin_edges(Feature(name="age", range=[0, 256]), [0, 10, 0, 10] + [0] * 248 + [10, 0, 0, 10], 4)
    [2.0, 4.0, 253.0]
    """
    assert feature.range is not None  # the study's check
    low, high = feature.range
    reached, rows = list(accumulate(counts)), sum(counts)
    ends = [next(cell for cell, sofar in enumerate(reached) if sofar * bins >= part * rows) for part in range(1, bins)]
    last = max(cell for cell, count in enumerate(counts) if count)  # beyond it there is nobody
    return [low + (high - low) * (cell + 1) / CELLS for cell in sorted(set(ends)) if cell < last]
