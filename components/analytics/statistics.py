"""Federated statistics of a cohort by arm: the "Table 1" of a trial.

Numbers: ``mean = c + S1 / n`` and ``variance = (S2 - S1^2 / n) / (n - 1)``, where ``S1`` and ``S2`` are the sites'
added sums of distances from the middle ``c`` of the declared range, and of their squares; no digit is lost to a large
mean.
Quantiles come from added histograms on the declared range, linear within a bin, so they are exact to a bin's width.
Standardised mean differences: Austin (2009) for numbers, Yang and Dalton (2012) for categories.

What disclosure control changes: an arm that is too small at a site is left out there; fewer missing values than the
smallest cell are counted as the site's mean (and in the fullest group of the histogram) and not told; neighbouring
bins are joined; levels with few patients are not told, which leaves the pooled count a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from components.analytics.disclosure import is_small, joined_bins, rounded, suppress
from components.analytics.plan import Analysis, Covariate, Disclosure
from components.analytics.records import ArmSummary, CategorySummary, NumberSummary, SiteSummary
from components.analytics.table import Cohort, Floats

QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class PooledNumber:
    """A number within an arm over all sites; NaN where nobody has a value.

    Attributes:
        patients: Who have a value.
        missing: Who have none, as far as it is told.
        mean: Mean.
        variance: With ``n - 1``; NaN for fewer than two.
        quartiles: The three quartiles, exact to a bin's width.
        complete: Whether every site told of all of its patients.
    """

    patients: int
    missing: int
    mean: float
    variance: float
    quartiles: tuple[float, float, float]
    complete: bool


@dataclass(frozen=True)
class PooledCategory:
    """A category within an arm over all sites.

    Attributes:
        counts: Patients with each level, as far as they are told.
        missing: Without a value, as far as they are told.
        complete: By level, whether every site told its count; else it is a lower bound.
        missing_complete: The same of `missing`.
    """

    counts: list[int]
    missing: int
    complete: list[bool]
    missing_complete: bool


@dataclass(frozen=True)
class Table1:
    """What patients are like, by arm.

    Attributes:
        patients: By arm, as far as they are told.
        sites: By site and arm; None is not told. The recruitment table.
        numbers: By covariate, then by arm.
        categories: By covariate, then by arm.
        differences: By covariate, the standardised mean difference of each further arm to the first; NaN where a
            count is not told.
    """

    patients: list[int]
    sites: dict[str, list[int | None]]
    numbers: dict[str, list[PooledNumber]]
    categories: dict[str, list[PooledCategory]]
    differences: dict[str, list[float]]


def summarise(cohort: Cohort, analysis: Analysis, policy: Disclosure) -> SiteSummary:
    """Describe a site's cohort: its half of Table 1.

    Args:
        cohort: The patients.
        analysis: Arms and covariates, with their ranges and levels.
        policy: What may leave.
    """
    arms = []
    for arm in range(len(analysis.arm.levels)):
        chosen = cohort.where(cohort.arms == arm)
        if is_small(len(chosen), policy):
            arms.append(ArmSummary(patients=None))
            continue
        numbers, categories = {}, {}
        for item in analysis.covariates:
            values = chosen.columns[item.name]
            if item.kind == "number":
                numbers[item.name] = _summarise_number(values, item, policy)
            else:
                categories[item.name] = _summarise_category(values, item, policy)
        arms.append(ArmSummary(patients=rounded(len(chosen), policy), numbers=numbers, categories=categories))
    return SiteSummary(arms=arms)


def pool_summaries(summaries: Mapping[str, SiteSummary], analysis: Analysis) -> Table1:
    """Add up the sites' summaries.

    Args:
        summaries: By site.
        analysis: As the sites had it.
    """
    arms = range(len(analysis.arm.levels))
    told = [[found.arms[arm] for _, found in sorted(summaries.items())] for arm in arms]
    present = [[found for found in row if found.patients is not None] for row in told]
    whole = [len(there) == len(row) for there, row in zip(present, told, strict=True)]
    numbers, categories, differences = {}, {}, {}
    for item in analysis.covariates:
        if item.kind == "number":
            pooled = [
                _pool_numbers([found.numbers[item.name] for found in present[arm]], item, whole=whole[arm])
                for arm in arms
            ]
            numbers[item.name] = pooled
            differences[item.name] = [number_difference(pooled[0], other) for other in pooled[1:]]
        else:
            rows = [
                _pool_categories([found.categories[item.name] for found in present[arm]], item, whole=whole[arm])
                for arm in arms
            ]
            categories[item.name] = rows
            differences[item.name] = [category_difference(rows[0], other) for other in rows[1:]]
    return Table1(
        patients=[sum(found.patients or 0 for found in row) for row in told],
        sites={site: [arm.patients for arm in found.arms] for site, found in sorted(summaries.items())},
        numbers=numbers,
        categories=categories,
        differences=differences,
    )


def number_difference(first: PooledNumber, second: PooledNumber) -> float:
    """Return ``(m2 - m1) / sqrt((v1 + v2) / 2)``.

    >>> one = PooledNumber(9, 0, 50.0, 100.0, (0.0, 0.0, 0.0), True)
    >>> number_difference(one, PooledNumber(9, 0, 55.0, 100.0, (0.0, 0.0, 0.0), True))
    0.5
    """
    spread = math.sqrt((first.variance + second.variance) / 2) if first.variance + second.variance > 0 else math.nan
    return (second.mean - first.mean) / spread


def category_difference(first: PooledCategory, second: PooledCategory) -> float:
    """Return the Mahalanobis distance ``sqrt((q - p)' S^-1 (q - p))`` of the shares of all levels but the first.

    Args:
        first: Of the reference arm, shares ``p``.
        second: Of another arm, shares ``q``. ``S`` is the mean of both multinomial covariances.

    Returns:
        NaN where a count is not told or nobody has a value; levels that nobody has are left out.
    """
    if not all(first.complete + second.complete) or not sum(first.counts) or not sum(second.counts):
        return math.nan
    counts = np.array([first.counts, second.counts], dtype=float)
    counts = counts[:, counts.sum(axis=0) > 0]
    shares = (counts / counts.sum(axis=1, keepdims=True))[:, 1:]
    covariance = np.mean([np.diag(row) - np.outer(row, row) for row in shares], axis=0)
    gap = shares[1] - shares[0]
    try:
        return float(np.sqrt(gap @ np.linalg.solve(covariance, gap))) if len(gap) else 0.0
    except np.linalg.LinAlgError:
        return math.nan


def _summarise_number(values: Floats, item: Covariate, policy: Disclosure) -> NumberSummary:
    """Describe a number; see the module for what is done with few missing values."""
    low, high = item.range or (0.0, 1.0)
    present = values[~np.isnan(values)]
    missing = len(values) - len(present)
    if is_small(len(present), policy) or not len(present):
        told = None if len(present) or is_small(missing, policy) else rounded(missing, policy)
        return NumberSummary(patients=0, missing=told, total=0.0, squares=0.0, bins=[], counts=[])
    away = present - (low + high) / 2
    places = np.minimum((present - low) / (high - low) * item.bins, item.bins - 1).astype(np.int64)
    counts = np.bincount(places, minlength=item.bins)
    hidden = is_small(missing, policy)
    if hidden:
        counts[int(counts.argmax())] += missing
    patients = len(present) + missing * hidden
    counted = rounded(patients, policy)
    ends, sizes = joined_bins([int(count) for count in counts], policy)
    return NumberSummary(
        patients=counted,
        missing=None if hidden else rounded(missing, policy),
        total=float(away.mean()) * counted,
        squares=float((away**2).mean()) * counted,
        bins=ends,
        counts=sizes,
    )


def _summarise_category(values: Floats, item: Covariate, policy: Disclosure) -> CategorySummary:
    """Count the levels, and who has none, as one row with a known total."""
    counts = [int((values == level).sum()) for level in range(-1, len(item.levels or []))]
    missing, *levels = suppress(counts, policy)
    return CategorySummary(counts=levels, missing=missing)


def _pool_numbers(found: Sequence[NumberSummary], item: Covariate, *, whole: bool) -> PooledNumber:
    """Add up the sites' sums of one number."""
    low, high = item.range or (0.0, 1.0)
    patients = sum(site.patients for site in found)
    total, squares = math.fsum(site.total for site in found), math.fsum(site.squares for site in found)
    mean = total / patients if patients else math.nan
    variance = (squares - total * mean) / (patients - 1) if patients > 1 else math.nan
    return PooledNumber(
        patients=patients,
        missing=sum(site.missing or 0 for site in found),
        mean=(low + high) / 2 + mean,
        variance=max(0.0, variance) if patients > 1 else math.nan,
        quartiles=_quartiles(found, item),
        complete=whole and all(site.missing is not None for site in found),
    )


def _quartiles(found: Sequence[NumberSummary], item: Covariate) -> tuple[float, float, float]:
    """Read the quartiles off the sum of the sites' cumulative histograms, each linear within its own groups."""
    low, high = item.range or (0.0, 1.0)
    edges = np.linspace(low, high, item.bins + 1)
    below = np.zeros(item.bins + 1)
    for site in found:
        if site.counts:
            ends = np.array([0, *(end + 1 for end in site.bins)])
            below += np.interp(np.arange(item.bins + 1), ends, np.cumsum([0, *site.counts]))
    if below[-1] <= 0:
        return (math.nan, math.nan, math.nan)
    first, second, third = (_crossing(below, edges, share * float(below[-1])) for share in QUARTILES)
    return first, second, third


def _crossing(below: Floats, edges: Floats, wanted: float) -> float:
    """Return where an ascending polygon first reaches a height."""
    place = max(1, int(np.searchsorted(below, wanted)))
    rise = below[place] - below[place - 1]
    part = (wanted - below[place - 1]) / rise if rise > 0 else 0.0
    return float(edges[place - 1] + part * (edges[place] - edges[place - 1]))


def _pool_categories(found: Sequence[CategorySummary], item: Covariate, *, whole: bool) -> PooledCategory:
    """Add up the sites' counts of one category."""
    levels = range(len(item.levels or []))
    return PooledCategory(
        counts=[sum(site.counts[level] or 0 for site in found) for level in levels],
        missing=sum(site.missing or 0 for site in found),
        complete=[whole and all(site.counts[level] is not None for site in found) for level in levels],
        missing_complete=whole and all(site.missing is not None for site in found),
    )
