"""What a site tells of the columns of a wide table, and which of them take part by the sums of all sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.errors import DataError, RefusedError
from components.later import LaterFields
from components.principal import FittedComponents
from components.rounds import Record
from components.screening import Floats, class_scores, strongest, survival_scores
from components.wide import Wide

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class WideSums(Record):
    """What a site tells of the columns of a wide table, one number for each in every field.

    Attributes:
        known: Rows that have a value; 0 where they are too few to be told, and all else with it.
        total: Sum of the values.
        squares: Sum of their squares.
        score: See `components.screening`; nothing where no column is screened.
        information: Likewise.
    """

    known: list[Count]
    total: list[Number]
    squares: list[Number]
    score: list[Number]
    information: list[Number]


class FittedWide(Record, LaterFields):
    """Which columns of a wide table take part, and what is done to them.

    Attributes:
        chosen: Their places among the wide columns, rising.
        mean: What is taken off, and stands where a value is missing.
        scale: What is divided by.
        constant: Of all that take part unscreened, the places of those that do not vary: they count nothing.
        known: Values behind the means, over all columns that vary.
        components: Of which the model sees the principal components, once they were fitted.
    """

    later = frozenset({"constant", "known", "components"})

    chosen: list[Count]
    mean: list[Number]
    scale: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    constant: list[Count] = Field(default_factory=list)
    known: Count = 0
    components: FittedComponents | None = None


def wide_sums(table: Floats, labels: NDArray[Any] | None, smallest_cell: int) -> WideSums:
    """Add up a wide table's columns, and how each goes with the outcome.

    Args:
        table: [N, W] values of the training rows; NaN where one is missing.
        labels: [N] zeros and ones, or [N, 2] times and events; None where no column is screened.
        smallest_cell: Fewest rows behind anything that is told.
    """
    known = ~np.isnan(table)
    told = known.sum(axis=0) >= smallest_cell
    values = np.where(known, table, 0.0)
    columns = [values.sum(axis=0), (values**2).sum(axis=0), *_scores(table, labels)]
    total, squares, score, informed = (np.where(told[: len(column)], column, 0.0).tolist() for column in columns)
    counts = np.where(told, known.sum(axis=0), 0).tolist()
    return WideSums(known=counts, total=total, squares=squares, score=score, information=informed)


def _scores(table: Floats, labels: NDArray[Any] | None) -> tuple[Floats, Floats]:
    """Return score and information [W] of each column; nothing without an outcome."""
    if labels is None:
        return np.empty(0), np.empty(0)
    return survival_scores(table, labels.astype(np.float64)) if labels.ndim == 2 else class_scores(table, labels)


def check_wide(wide: Wide | None, sums: WideSums | None, site: str) -> None:
    """Refuse sums of a wide table that cannot be.

    Raises:
        RefusedError: Naming the site.
    """
    if (sums is None) != (wide is None):
        raise RefusedError(f"{site}: its sums are not those of the study's columns; has it the same version of it?")
    if sums is None or wide is None:
        return
    columns, scored = len(wide.columns), len(wide.columns) if wide.keep is not None else 0
    lengths = [len(numbers) for numbers in (sums.known, sums.total, sums.squares, sums.score, sums.information)]
    if lengths != [columns] * 3 + [scored] * 2 or min(sums.squares) < 0 or min(sums.information, default=0) < 0:
        raise RefusedError(f"{site}: its sums do not fit the study's {columns} wide columns")


def fit_wide(wide: Wide, sums: Sequence[WideSums]) -> FittedWide:
    """Fit means and scales over all sites, and choose the columns that say most of the outcome, if some are chosen.

    Raises:
        DataError: If fewer columns vary, or say anything, than shall take part or have components.
    """
    known, total, squares, score, information = (
        np.array([math.fsum(column) for column in zip(*(getattr(item, name) for item in sums), strict=True)])
        for name in ("known", "total", "squares", "score", "information")
    )
    count = np.maximum(known, 1)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6)
    if wide.keep is not None:
        chosen = strongest(score, np.where(varies, information, 0.0), wide.keep)
        if len(chosen) < wide.keep:
            raise DataError(
                f"{len(chosen)} of {len(wide.columns)} wide columns vary and say something of the outcome at sites "
                f"that may tell of them, and data.records.wide.keep is {wide.keep}: lower it"
            )
        return FittedWide(
            chosen=chosen, mean=mean[chosen].tolist(), scale=deviation[chosen].tolist(),
            known=int(known[chosen].sum()) if wide.components else 0,
        )  # fmt: skip
    if int(varies.sum()) < wide.inputs:
        raise DataError(
            f"{int(varies.sum())} of {len(wide.columns)} wide columns vary at sites that may tell of them, and "
            f"data.records.wide.components is {wide.inputs}: lower it"
        )
    return FittedWide(
        chosen=list(range(len(varies))), mean=mean.tolist(), scale=np.where(varies, deviation, 1.0).tolist(),
        constant=np.flatnonzero(~varies).tolist(), known=int(known[varies].sum()),
    )  # fmt: skip
