"""Which cells of a histogram may be told apart, where no told number may rest on too few rows.

Cells stay numbers that can be added: what is not told apart is told together. Several histograms can be asked about at
once, those of parts whose sum was told before: then neither a part, nor what one has over, rests on too few rows.
"""

from __future__ import annotations

from collections.abc import Sequence

Counts = Sequence[int]


def merged(groups: Sequence[Sequence[int]], parts: Sequence[Counts], smallest: int) -> list[list[int]]:
    """Merge neighbouring groups of cells until each has no row, or `smallest` rows at least, in every part.

    Args:
        groups: Cells that are told together already, in their order.
        parts: For each part the rows in each cell.
        smallest: Fewest rows behind anything that is told.

    Returns:
        Groups of the same cells in the same order, each a union of neighbours. If a part has too few rows in all,
        everything is one group.

    >>> merged([[0], [1], [2], [3]], [[9, 2, 4, 0]], 5)
    [[0], [1, 2], [3]]
    >>> merged([[0], [1], [2]], [[9, 8, 2]], 5)
    [[0], [1, 2]]
    """
    done: list[list[int]] = []
    opened: list[int] = []
    for group in groups:
        opened = [*opened, *group]
        if _tellable(opened, parts, smallest):
            done.append(opened)
            opened = []
    while opened and not _tellable(opened, parts, smallest) and done:
        opened = [*done.pop(), *opened]
    return [*done, opened] if opened else done


def told_apart(cells: Sequence[int], parts: Sequence[Counts], smallest: int) -> list[int]:
    """Return which cells without an order may be told on their own; the others are told together.

    Args:
        cells: Those that were told on their own so far.
        parts: For each part the rows in each cell, these and the others.
        smallest: Fewest rows behind anything that is told.

    Guarantees:
        Each told cell, and the others together, have no row or `smallest` rows at least in every part.

    >>> told_apart([0, 1, 2], [[30, 3, 20]], 5)  # 20 goes with 3, which would follow from the number of all
    [0]
    """
    told = [cell for cell in cells if _tellable([cell], parts, smallest)]
    while told:
        others = [cell for cell in range(len(parts[0])) if cell not in told]
        if _tellable(others, parts, smallest):
            break
        filled = [cell for cell in told if any(part[cell] for part in parts)]
        if not filled:
            break
        told.remove(min(filled, key=lambda cell: (sum(part[cell] for part in parts), cell)))
    return told


def middle(group: Sequence[int]) -> int:
    """Return the cell that stands for a group of neighbours."""
    return group[(len(group) - 1) // 2]


def _tellable(cells: Sequence[int], parts: Sequence[Counts], smallest: int) -> bool:
    """Whether the rows in some cells together are none or enough, in every part."""
    return all(not 0 < sum(part[cell] for cell in cells) < smallest for part in parts)
