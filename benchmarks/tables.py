"""Tables of results, as markdown that is also read well on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

Cell = str | float | int | bool | None


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table with columns of equal width; numbers stand to the right.

    Args:
        header: Names of the columns.
        rows: Cells; a float is given three significant digits, True and False become yes and no.

    Raises:
        ValueError: If a row has another number of cells than the header.

    >>> print(markdown_table(["what", "s"], [["a round", 1.2345], ["all", 20.0]]))
    | what    |    s |
    |:--------|-----:|
    | a round | 1.23 |
    | all     | 20.0 |
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    if any(len(row) != len(header) for row in texts):
        raise ValueError(f"each row needs {len(header)} cells, as {list(header)}")
    columns = list(zip(header, *texts, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    right = [all(_is_number(row[index]) for row in rows) for index in range(len(header))]
    lines = [_line(header, widths, right)]
    lines.append("|" + "|".join("-" * (w + 1) + ":" if r else ":" + "-" * (w + 1) for w, r in zip(widths, right)) + "|")  # noqa: B905
    return "\n".join(lines + [_line(row, widths, right) for row in texts])


def megabytes(size: float) -> str:
    """Return bytes as text in MB (10^6 bytes).

    >>> megabytes(512_400_000)
    '512 MB'
    """
    return f"{size / 1e6:.0f} MB"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    """Return one line of a table."""
    placed = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "| " + " | ".join(placed) + " |"


def _is_number(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))


def _text(cell: Cell) -> str:
    """Return a cell as text."""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:#.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return "" if cell is None else str(cell)
