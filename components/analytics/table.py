"""A site's table: read, checked against what the study says of its columns, and turned into arrays.

Nothing here leaves the site but the messages, which name columns and never a value or a row.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.analytics.plan import Analysis, Condition, Covariate, Event, Time
from components.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Column = list[str | None]

MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "None", "."})
_MOST_BEYOND, _FIRST_PART = 0.5, 0.01  # of the grid: outside of these, the unit is wrong rather than the patients


@dataclass(frozen=True)
class Cohort:
    """The patients of an analysis at one site; one entry per patient in each array.

    Attributes:
        cells: Cell of the time grid in which observation ends.
        causes: 0 for censored, else the number of the cause.
        arms: Number of the arm.
        columns: By name: a number (NaN where it is missing), or the number of a category's level (-1).
        rows: The whole row as text, with how often it came before: what tells patients apart at the site.
        rounded: Whether a time was rounded up to the grid.
        truncated: Whether anybody was observed beyond the grid's end.
    """

    cells: Integers
    causes: Integers
    arms: Integers
    columns: dict[str, Floats]
    rows: list[str]
    rounded: bool
    truncated: bool

    def __len__(self) -> int:
        return len(self.cells)

    def where(self, kept: NDArray[np.bool_]) -> Cohort:
        """Return the patients for whom `kept` is true."""
        return Cohort(
            cells=self.cells[kept],
            causes=self.causes[kept],
            arms=self.arms[kept],
            columns={name: values[kept] for name, values in self.columns.items()},
            rows=[row for row, keep in zip(self.rows, kept, strict=True) if keep],
            rounded=self.rounded,
            truncated=self.truncated,
        )


def read_table(file: Path) -> dict[str, Column]:
    """Read a CSV or Parquet file as text, column by column.

    Raises:
        DataError: If it is not there, cannot be read, or names a column twice. The message holds the file's name
            alone, not its folder.
    """
    try:
        columns = _read_parquet(file) if file.suffix == ".parquet" else _read_csv(file)
    except FileNotFoundError:
        raise DataError(f"there is no table {file.name} in the site's folder") from None
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise DataError(f"the table {file.name} cannot be read ({type(error).__name__})") from error
    if not columns or not next(iter(columns.values())):
        raise DataError(f"the table {file.name} has no rows")
    return columns


def open_cohort(table: Mapping[str, Column], analysis: Analysis) -> Cohort:
    """Check a table against the study, and return the patients who meet the cohort's conditions.

    Args:
        table: Columns of equal length, as text; None is missing. A column ``__row__`` (see `numbered`) is not needed.
        analysis: What the columns shall be.

    Raises:
        DataError: Naming every column that is missing, or the first one whose values cannot be what the study says
            (text instead of numbers, outside the declared range, an unknown level, negative times, event labels that
            are not 0, 1, ...).
    """
    wanted = [analysis.time.column, analysis.event.column, analysis.arm.column]
    wanted += [covariate.name for covariate in analysis.covariates]
    absent = [name for name in wanted if name not in table]
    if absent:
        # Of the study's columns alone: what stands in the first line of a table without names is a patient.
        there = sorted(set(wanted) & table.keys())
        raise DataError(
            f"the table has no column {', '.join(absent)}; it has {', '.join(there) or 'none of the others'}. "
            "Names must be those of the study, in capitals and small letters too"
        )
    cells, truncated, rounded = _cells(table[analysis.time.column], analysis.time)
    causes = _causes(table[analysis.event.column], analysis.event)
    arms = _levels(table[analysis.arm.column], analysis.arm.column, analysis.arm.levels)
    if (arms < 0).any():
        raise DataError(f"column {analysis.arm.column} is empty for some patients; everybody needs an arm")
    columns = {item.name: _covariate(table[item.name], item) for item in analysis.covariates}
    beyond = cells > analysis.time.cells
    whole = Cohort(
        cells=np.minimum(cells, analysis.time.cells),
        causes=np.where(beyond, 0, causes),
        arms=arms.astype(np.int64),
        columns=columns,
        rows=_rows(table),
        rounded=rounded,
        truncated=truncated,
    )
    kept = np.ones(len(whole), dtype=bool)
    for condition in analysis.cohort:
        kept &= _meets(whole, condition, analysis)
    return whole.where(kept)


def _read_csv(file: Path) -> dict[str, Column]:
    """Read a CSV file."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, strict=True)
        names = [name.strip() for name in next(rows, [])]
        if len(set(names)) != len(names):
            raise DataError(f"the table {file.name} names a column twice")
        columns: dict[str, Column] = {name: [] for name in names}
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise DataError(f"the table {file.name} has a row with more or fewer values than columns")
            for name, value in zip(names, row, strict=True):
                columns[name].append(None if value.strip() in MISSING else value.strip())
    return columns


def _read_parquet(file: Path) -> dict[str, Column]:
    """Read a Parquet file."""
    import pyarrow.parquet  # a second to import, and only those who have Parquet need it

    if not file.is_file():
        raise FileNotFoundError
    found: dict[str, list[Any]] = pyarrow.parquet.read_table(file).to_pydict()
    return {
        name: [_text(value) for value in values] for name, values in found.items() if not name.startswith("__index")
    }


def _text(value: Any) -> str | None:
    """Write a value as a CSV file would hold it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return None if text in MISSING else text


def _rows(table: Mapping[str, Column]) -> list[str]:
    """Write each row as one text; equal rows are numbered."""
    names, seen, rows = sorted(table), dict[str, int](), []
    for values in zip(*(table[name] for name in names), strict=True):
        text = "\x1f".join("" if value is None else value for value in values)
        seen[text] = seen.get(text, 0) + 1
        rows.append(f"{text}\x1e{seen[text]}")
    return rows


def _numbers(values: Sequence[str | None], name: str) -> Floats:
    """Read numbers; NaN where there is none."""
    try:
        found = np.array([math.nan if value is None else float(value) for value in values], dtype=float)
    except ValueError:
        raise DataError(f"column {name} holds text where numbers are expected (a decimal comma, a unit?)") from None
    if np.isinf(found).any():
        raise DataError(f"column {name} holds infinite numbers")
    return found


def _cells(values: Column, time: Time) -> tuple[Integers, bool, bool]:
    """Return the cell in which each patient's observation ends, and whether any was cut off or rounded."""
    found = _numbers(values, time.column)
    if np.isnan(found).any():
        raise DataError(f"column {time.column} is empty for some patients; everybody needs a time")
    if (found < 0).any():
        raise DataError(f"column {time.column} holds negative times; it counts {time.unit} since the entry")
    if (found > time.end).mean() > _MOST_BEYOND:
        raise DataError(
            f"column {time.column}: more than half of the times lie beyond the grid's end, {time.end:g} {time.unit}; "
            f"are they in {time.unit}?"
        )
    if (found <= _FIRST_PART * time.end).all():
        raise DataError(
            f"column {time.column}: all times lie in the first hundredth of the grid, which ends at {time.end:g} "
            f"{time.unit}; are they in {time.unit}?"
        )
    exact = found / time.step
    nearest = np.rint(exact)
    on_grid = np.abs(exact - nearest) <= 1e-9 * np.maximum(1.0, nearest)
    cells = np.where(on_grid, nearest, np.ceil(exact)).astype(np.int64)
    return cells, bool((cells > time.cells).any()), not bool(on_grid.all())


def _causes(values: Column, event: Event) -> Integers:
    """Return the number of each patient's cause."""
    allowed = {str(number): number for number in range(len(event.causes) + 1)}
    allowed |= {f"{number}.0": number for number in range(len(event.causes) + 1)}
    found = [allowed.get(value, -1) if value is not None else -1 for value in values]
    if min(found) < 0:
        words = ", ".join(["0 (censored)", *(f"{number} ({name})" for number, name in enumerate(event.causes, 1))])
        raise DataError(f"column {event.column} must hold {words} and nothing else; it holds another label or gaps")
    return np.array(found, dtype=np.int64)


def _levels(values: Column, name: str, levels: Sequence[str]) -> Floats:
    """Return the number of each patient's level, -1 where it is missing."""
    place = {level: number for number, level in enumerate(levels)}
    found = [-1 if value is None else place.get(value, -2) for value in values]
    if min(found) < -1:
        raise DataError(f"column {name} holds a value that is none of the study's levels: {', '.join(levels)}")
    return np.array(found, dtype=float)


def _covariate(values: Column, covariate: Covariate) -> Floats:
    """Return a covariate's values, checked."""
    if covariate.levels is not None:
        return _levels(values, covariate.name, covariate.levels)
    found = _numbers(values, covariate.name)
    low, high = covariate.range or (-math.inf, math.inf)
    if ((found < low) | (found > high)).any():
        unit = f" {covariate.unit}" if covariate.unit else ""
        raise DataError(
            f"column {covariate.name} holds values outside of the study's range, {low:g} to {high:g}{unit}; "
            f"is that the unit of the column, and is a code such as -9 or 999 used for missing values?"
        )
    return found


def _meets(cohort: Cohort, condition: Condition, analysis: Analysis) -> NDArray[np.bool_]:
    """Return who meets a condition; who has no value does not."""
    arm = condition.column == analysis.arm.column
    values = cohort.arms.astype(float) if arm else cohort.columns[condition.column]
    if condition.among is not None:
        levels = analysis.covariate(condition.column).levels or []
        return np.asarray(np.isin(values, [levels.index(level) for level in condition.among]))
    met: NDArray[np.bool_] = ~np.isnan(values)
    if condition.at_least is not None:
        met = met & (values >= condition.at_least)
    if condition.below is not None:
        met = met & (values < condition.below)
    return met
