"""The tables of an analysis as people read them; the files beside have every digit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from components.analytics.tables import Cell, Table, is_nothing
from components.digits import digits_apart, number_text

NO_EFFECT: Mapping[str, float] = MappingProxyType({"ratio": 1.0, "log": 0.0})
LEAST = {"ratio": 3, "log": 4}  # digits after the point
WHOLE = 100.0  # times that reach so far are whole numbers
SMALLEST_P = 0.001


def shown_rows(table: Table) -> list[list[str]]:
    """Return a table's cells as text: all numbers of a kind with the same digits after the point.

    Kinds: ``ratio`` and ``log`` (its logarithm) have as many that none reads as no effect which is not; ``time`` none
    where it is of hundreds; ``p`` three; ``expected`` (a number of patients) one. Other numbers
    have four significant digits.

    >>> rows = [["size", 1.008, 1.00014, 0.0461], ["nodes", 1.053, 1.037, 3e-11]]
    >>> shown_rows(Table("cox", "Cox", ["of", "ratio", "from", "p"], rows, kinds=("", "ratio", "ratio", "p")))
    [['size', '1.0080', '1.0001', '0.046'], ['nodes', '1.0530', '1.0370', '<0.001']]
    """
    kinds = table.kinds or ("",) * len(table.header)
    digits = {kind: _digits(table, kind) for kind in set(kinds)}
    return [
        [cell_text(cell, kind, digits[kind], table.nothing) for cell, kind in zip(row, kinds, strict=True)]
        for row in table.rows
    ]


def numeric_columns(table: Table) -> list[bool]:
    """Tell of each column whether it holds numbers, which stand to the right, as does its heading."""
    return [
        any(isinstance(row[place], int | float) and not is_nothing(row[place]) for row in table.rows)
        for place in range(len(table.header))
    ]


def cell_text(cell: Cell, kind: str = "", digits: int | None = None, nothing: str = "") -> str:
    """Write a cell; without digits after the point that are given, four significant ones.

    >>> [cell_text(cell) for cell in (None, 3, 0.012345, 12345.6, "north", float("inf"))]
    ['', '3', '0.01235', '12346', 'north', '']
    """
    if is_nothing(cell) or cell is None:
        return nothing
    if not isinstance(cell, float):
        return str(cell)
    if kind == "p":
        return number_text(cell, 3) if cell >= SMALLEST_P else f"<{SMALLEST_P:g}"
    if digits is not None:
        return number_text(cell, digits)
    return f"{cell:.4g}" if abs(cell) < 1000 else number_text(cell, 0)


def _digits(table: Table, kind: str) -> int | None:
    """Return how many digits after the point all numbers of a kind have; None for four significant ones."""
    found = [
        float(cell)
        for row in table.rows
        for cell, own in zip(row, table.kinds, strict=False)
        if own == kind and isinstance(cell, int | float)
    ]
    if kind == "expected":
        return 1
    if kind in NO_EFFECT:
        return digits_apart(found, NO_EFFECT[kind], LEAST[kind])
    return 0 if kind == "time" and max(map(abs, found), default=0.0) >= WHOLE else None
