r"""Sums over a site's rows, and what all sites' sums together make of missing values and scales.

A site tells, of its training rows only, how many values a feature has there, and of numbers their sum and their sum
of squares about a centre :math:`c` that everybody knows (the middle of the feature's range):

.. math:: n = \sum_k n_k,\qquad \mu = c + \frac1n\sum_k s_k,\qquad
          \sigma^2 = \frac1n\sum_k q_k - (\mu - c)^2

So the mean and the standard deviation are those of the pooled rows, to the rounding of double precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from components.bin_edges import CELLS, bin_edges, cell_counts
from components.errors import DataError, RefusedError
from components.features import Feature, Records
from components.later import LaterFields
from components.rounds import Record
from components.wide_sums import FittedWide, WideSums, check_wide, fit_wide

Count = Annotated[int, Field(ge=0)]


class FeatureSums(Record, LaterFields):
    """What a site tells of one feature.

    Attributes:
        known: Rows that have a value; None if they are too few to be told.
        total: Sum of the values less the feature's centre; 0 for categories.
        squares: Sum of the squares of the same.
        counts: Of a category or a boolean: rows of each value, None where they are too few to be told.
        cells: Of a number that is cut into bins: rows in equal cells of its range; see `components.bin_edges`.
    """

    later = frozenset({"cells"})

    known: Count | None
    total: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    squares: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    counts: list[Count | None] = Field(default_factory=list)
    cells: list[Count] = Field(default_factory=list)


class TableSums(Record, LaterFields):
    """What a site tells of its training rows, by feature, and of a wide table's columns."""

    later = frozenset({"wide"})

    features: dict[str, FeatureSums]
    wide: WideSums | None = None


class Fitted(Record, LaterFields):
    """What is done to the columns before the model sees them, in the order of the features.

    Attributes:
        fill: What stands where a value is missing: the mean, or the place of the most frequent category.
        mean: What is taken off.
        scale: What is divided by, above 0.
        edges: For trees: where the bins of each number end; none of a category or a boolean.
        wide: Of a wide table.
    """

    later = frozenset({"edges", "wide"})

    fill: list[float]
    mean: list[float]
    scale: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    edges: list[list[Annotated[float, Field(allow_inf_nan=False)]]] = Field(default_factory=list)
    wide: FittedWide | None = None


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation and number of the values of one feature."""

    count: int
    mean: float
    deviation: float


def feature_sums(feature: Feature, values: Sequence[float], smallest_cell: int, *, binned: bool = False) -> FeatureSums:
    """Add up one feature's values, and leave out what too few rows stand behind.

    Args:
        feature: The feature.
        values: Encoded values of the training rows; NaN where one is missing.
        smallest_cell: Fewest rows behind anything that is told.
        binned: Whether numbers are to be cut into bins.

    Guarantees:
        No number is told that rests on 1 to ``smallest_cell - 1`` rows. Where one count alone is left out, the
        smallest of the others is as well, so that the number of all gives neither.

    >>> feature_sums(Feature(name="sex", type="boolean"), [0.0] * 9 + [1.0] * 2, 5)
    FeatureSums(known=11, total=0.0, squares=0.0, counts=[None, None])
    >>> feature_sums(Feature(name="age", range=[0, 100]), [40.0, 60.0, 70.0], 2)
    FeatureSums(known=3, total=20.0, squares=600.0, counts=[])
    """
    there = [value for value in values if value == value]
    if 0 < len(there) < smallest_cell:
        return FeatureSums(known=None, counts=[None] * feature.values)
    if feature.values:
        counts = [sum(value == place for value in there) for place in range(feature.values)]
        return FeatureSums(known=len(there), counts=suppressed(counts, smallest_cell))
    about = [value - feature.centre for value in there]
    squares = math.fsum(value * value for value in about)
    cells = cell_counts(feature, there, smallest_cell) if binned and there else []
    return FeatureSums(known=len(there), total=math.fsum(about), squares=squares, cells=cells)


def suppressed(counts: Sequence[int], smallest_cell: int) -> list[int | None]:
    """Leave out counts of 1 to ``smallest_cell - 1``, and one more where one alone would follow from the total.

    >>> suppressed([40, 3, 12, 0], 5)
    [40, None, None, 0]
    """
    told: list[int | None] = [count if count == 0 or count >= smallest_cell else None for count in counts]
    others = [place for place, count in enumerate(told) if count]
    if told.count(None) == 1 and others:
        told[min(others, key=lambda place: (counts[place], place))] = None
    return told


def check_table_sums(records: Records, sums: TableSums | None, site: str, *, binned: bool = False) -> None:
    """Refuse sums that are not those of the study's features; `binned` as of `feature_sums`.

    Raises:
        RefusedError: Naming site and feature.
    """
    if sums is None or sums.features.keys() != {
        feature.name for feature in (records.features if records.wide else records.encoded)
    }:
        raise RefusedError(f"{site}: its sums are not those of the study's features; has it the same version of it?")
    check_wide(records.wide, sums.wide, site)
    for feature in records.features if records.wide else records.encoded:
        found = sums.features[feature.name]
        told = sum(count or 0 for count in found.counts)
        if len(found.counts) != feature.values or told > (found.known or 0):
            raise RefusedError(f"{site}: the counts of {feature.name} do not fit its {feature.values} values")
        expected = CELLS if binned and not feature.values and found.known else 0
        if len(found.cells) != expected or (expected and sum(found.cells) != found.known):
            raise RefusedError(f"{site}: the cells of {feature.name} do not fit the rows that it has")


def fit(records: Records, sums: Mapping[str, TableSums]) -> Fitted:
    """Fit what is done to the columns to the sums of all sites.

    Args:
        records: The study's table.
        sums: Each site's sums, checked.

    Raises:
        DataError: Naming every feature that has no value that may be told, or only one value, at all sites together.
    """
    wrong, rows = [], []
    for feature in records.features:
        pooled = [sums[site].features[feature.name] for site in sorted(sums)]
        row = _categories(pooled) if feature.values else _numbers(feature, pooled)
        if row is None:
            wrong.append(f"{feature.name} has no value at {records.smallest_cell} rows or more of any site")
        elif row.deviation <= 1e-9 * max(1.0, abs(row.mean)):
            wrong.append(f"{feature.name} has the same value in all rows of all sites")
        else:
            plain = feature.values > 0 or records.scaling == "none"
            rows.append((row.mean, 0.0 if plain else row.mean, 1.0 if plain else row.deviation))
    if wrong:
        raise DataError(f"nothing can be learned from some features: {'; '.join(wrong)}. Leave them out of the study")
    fill, mean, scale = zip(*rows, strict=True)
    wide = [found.wide for _, found in sorted(sums.items()) if found.wide is not None]
    fitted = fit_wide(records.wide, wide) if records.wide is not None else None
    return Fitted(fill=list(fill), mean=list(mean), scale=list(scale), wide=fitted)


def fit_bins(records: Records, sums: Mapping[str, TableSums], bins: int) -> Fitted:
    """Fit as `fit` does, and cut each number into bins of about as many rows of all sites.

    Args:
        records: The study's table; its numbers have ranges.
        sums: Each site's sums, checked; with cells.
        bins: Bins of a number at the most.

    Raises:
        DataError: As `fit`.
    """
    edges: list[list[float]] = []
    fitted = fit(records, sums)
    for feature in records.features:
        own = [sums[site].features[feature.name].cells for site in sorted(sums)]
        pooled = [sum(counts) for counts in zip(*filter(None, own), strict=True)]
        edges.append([0.5] if feature.values == 2 else [] if feature.values else bin_edges(feature, pooled, bins))
    return fitted.model_copy(update={"edges": edges})


def moments(feature: Feature, sums: Sequence[FeatureSums]) -> Moments | None:
    """Return mean and standard deviation (with divisor n) of a numeric feature over all sites; None without values."""
    count = sum(item.known or 0 for item in sums)
    if not count:
        return None
    shift = math.fsum(item.total for item in sums) / count
    variance = math.fsum(item.squares for item in sums) / count - shift * shift
    return Moments(count, feature.centre + shift, math.sqrt(max(variance, 0.0)))


_numbers = moments


def _categories(sums: Sequence[FeatureSums]) -> Moments | None:
    """Return the place of the most frequent value, and a deviation of 0 if there is no other."""
    told = [sum(counts) for counts in zip(*([count or 0 for count in item.counts] for item in sums), strict=True)]
    hidden = any(count is None for item in sums for count in item.counts)
    if not any(told):
        return None
    varied = sum(count > 0 for count in told) > 1 or hidden
    return Moments(sum(told), float(told.index(max(told))), 1.0 if varied else 0.0)
