"""What may leave a site: rules of values, without state (`components.analytics.desk` keeps that).

A cell is *small* if it counts fewer patients than the policy's smallest cell, but not none. What leaves as a count is
no small cell, and no difference of counts that leave is one either:

- a row of cells with a known total loses its small cells, and as many more that the sum of what is missing is no small
  cell itself (secondary suppression of the complement);
- the bins of a histogram, and the times of a survival table, are joined with their neighbours until no group is small;
- no minimum, no maximum and no single patient's value leaves as such.

An empty cell is told as empty: that nobody at a hospital had an event can itself be told by these tables.

Reference: Hundepool et al., "Statistical disclosure control", Wiley 2012, chapters 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.analytics.plan import Disclosure
from components.analytics.table import Integers
from components.errors import RefusedError

FREE = Disclosure(smallest_cell=1)


class WithheldError(RefusedError):
    """An answer that disclosure control keeps at the site; the reason may leave."""


def is_small(count: int, policy: Disclosure) -> bool:
    """Whether a cell is small.

    >>> [is_small(count, Disclosure(smallest_cell=5)) for count in (0, 4, 5)]
    [False, True, False]
    """
    return 0 < count < policy.smallest_cell


def rounded(count: int, policy: Disclosure) -> int:
    """Return a count as a multiple of the policy's base, to the nearest.

    >>> rounded(38, Disclosure(rounding=5))
    40
    """
    base = policy.rounding
    return (int(count) + base // 2) // base * base


def suppress(counts: Sequence[int], policy: Disclosure) -> list[int | None]:
    """Take the small cells out of a row whose total is known.

    Args:
        counts: Patients in each cell.
        policy: The policy.

    Returns:
        The counts, rounded; None for what is not told.

    Guarantees:
        No small cell is told. What the total gives away of the cells that are not told is no small cell: a single
        one is never missing, and those missing add up to a smallest cell or more.

    >>> suppress([3, 20, 9], Disclosure(smallest_cell=5))
    [None, 20, None]
    >>> suppress([30, 20, 0], Disclosure(smallest_cell=5))
    [30, 20, 0]
    """
    hidden = {place for place, count in enumerate(counts) if is_small(count, policy)}
    rest = sorted((count, place) for place, count in enumerate(counts) if place not in hidden and count)
    while hidden and rest and (len(hidden) < 2 or sum(counts[place] for place in hidden) < policy.smallest_cell):
        hidden.add(rest.pop(0)[1])
    return [None if place in hidden else rounded(count, policy) for place, count in enumerate(counts)]


def joined_bins(counts: Sequence[int], policy: Disclosure) -> tuple[list[int], list[int]]:
    """Join the bins of a histogram until no group is small.

    Args:
        counts: Patients in each bin.
        policy: The policy.

    Returns:
        The last bin of each group, ascending, and the patients in it; groups are as narrow as may be from below.
        Without control, all bins as they are.

    Raises:
        WithheldError: If all together are a small cell.

    >>> joined_bins([4, 3, 0, 6, 1], Disclosure(smallest_cell=5))
    ([1, 4], [7, 7])
    """
    if is_small(sum(counts), policy):
        raise WithheldError(f"fewer than {policy.smallest_cell} patients have a value")
    if not policy.controlled:
        return list(range(len(counts))), cumulatively_rounded(counts, policy)
    ends, sizes, size = list[int](), list[int](), 0
    for place, count in enumerate(counts):
        size += int(count)
        if size >= policy.smallest_cell:
            ends.append(place)
            sizes.append(size)
            size = 0
    if ends:
        sizes[-1] += size
        ends[-1] = len(counts) - 1  # where it ends would tell where the highest value lies
    return ends, cumulatively_rounded(sizes, policy)


def cumulatively_rounded(counts: Sequence[int], policy: Disclosure) -> list[int]:
    """Round counts so that their sums from the left are off by half the base at the most, not each of them.

    >>> cumulatively_rounded([7, 7, 7], Disclosure(rounding=5))
    [5, 10, 5]
    """
    if policy.rounding == 1:
        return [int(count) for count in counts]
    base = policy.rounding
    sums = (np.cumsum(counts) + base // 2) // base * base
    return [int(part) for part in np.diff(np.concatenate([[0], sums]))]


def grouped_times(cells: Integers, kinds: Integers, smallest: int) -> Integers:
    """Give neighbours in time one time, so that no time is that of a few patients.

    Patients of one kind (censored, or an event of one cause) are taken in the order of their times in groups of
    `smallest` or more; who shares a cell stays together, and what is left at the end joins the last group. Each group
    gets the mean of its times, to the nearest cell.

    Args:
        cells: Cell of the time grid in which each patient leaves, shape (N,).
        kinds: Kind of each patient, shape (N,).
        smallest: Least size of a group.

    Returns:
        The patients' new cells, shape (N,). With `smallest` 1 they are the old ones.

    Raises:
        WithheldError: If there are fewer patients of a kind than `smallest`, and not none.

    >>> grouped_times(np.array([1, 2, 3, 8, 9]), np.array([1, 1, 1, 1, 1]), 2)
    array([2, 2, 7, 7, 7])
    """
    new = cells.copy()
    if smallest <= 1:
        return new
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        if len(places) < smallest:
            what = "censored" if kind == 0 else "with an event"
            raise WithheldError(f"fewer than {smallest} patients of an arm are {what}")
        places = places[np.argsort(cells[places], kind="stable")]
        for start, end in _spans(cells[places], smallest):
            new[places[start:end]] = np.rint(cells[places[start:end]].mean())
    return new


def _spans(ordered: Integers, smallest: int) -> list[tuple[int, int]]:
    """Divide an ascending array into spans of `smallest` or more that split no ties."""
    spans, start = list[tuple[int, int]](), 0
    for place in range(len(ordered)):
        last = place + 1 == len(ordered) or ordered[place + 1] != ordered[place]
        if last and place + 1 - start >= smallest:
            spans.append((start, place + 1))
            start = place + 1
    if start < len(ordered):
        spans[-1] = (spans[-1][0], len(ordered))
    return spans


def require_enough_rows(patients: int, covariates: int, numbers: int, policy: Disclosure) -> None:
    """Refuse a regression that tells so many numbers that the table could be solved for.

    Args:
        patients: Rows of the regression.
        covariates: Columns of the regression.
        numbers: Numbers that leave the site over all steps of the fit.
        policy: The policy; nothing is refused where control is off.

    Raises:
        WithheldError: If more numbers would leave than the table has entries.
    """
    if policy.controlled and numbers > patients * covariates:
        raise WithheldError(
            f"the regression would tell {numbers} numbers over its steps, and the site's table has "
            f"{patients * covariates} entries; ask for fewer covariates"
        )
