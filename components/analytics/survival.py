"""Kaplan-Meier, restricted mean survival time, log-rank and competing risks, from counts of who leaves when.

A site tells, by arm, how many leave observation in each cell of the declared time grid, by cause (`count_exits`);
the pooled counts are what every estimator here needs, and give what the pooled rows would give, exactly, as long as
times are multiples of the grid's step and nobody is observed beyond its end. Else times count as rounded up to the
grid, and later events are not seen; the result says so.

What disclosure control changes: such counts, cell by cell, are mostly ones. So a site joins patients of one arm and
kind (censored, or an event of one cause) into groups with at least the smallest cell, each at the mean of its times;
pooled, a group is spread out again about that mean (`spread`). Totals are kept, times are approximate. A site that has
fewer of a kind in an arm, and not none, is left out of these methods.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import gammaincc, ndtri

from components.analytics.disclosure import cumulatively_rounded, grouped_times
from components.analytics.plan import Analysis, Disclosure
from components.analytics.records import ArmExits, SiteExits
from components.analytics.table import Cohort, Floats, Integers

Z95 = float(ndtri(0.975))


@dataclass(frozen=True)
class Exits:
    """Who leaves when, in one group of patients.

    Attributes:
        times: Distinct times at which somebody leaves, ascending, in the study's unit, shape (T,).
        events: By cause, shape (K, T).
        censored: Shape (T,).
    """

    times: Floats
    events: Integers
    censored: Integers

    @property
    def at_risk(self) -> Integers:
        """Patients under observation just before each time."""
        leaving = self.events.sum(axis=0) + self.censored
        return np.asarray(leaving[::-1].cumsum()[::-1])

    @property
    def patients(self) -> int:
        """Patients in all."""
        return int(self.events.sum() + self.censored.sum())

    def still_at_risk(self, times: Sequence[float]) -> list[int]:
        """Return who is under observation at each of some times (who leaves then still is)."""
        leaving = self.events.sum(axis=0) + self.censored
        return [int(leaving[self.times >= time].sum()) for time in times]


@dataclass(frozen=True)
class Curve:
    """A step function with its 95 % interval; the value holds from its time on.

    Attributes:
        times: Ascending, starting with 0.
        values: At those times.
        errors: Standard errors.
        low: Lower ends.
        high: Upper ends.
    """

    times: Floats
    values: Floats
    errors: Floats
    low: Floats
    high: Floats

    def at(self, time: float) -> float:
        """Return the value at a time."""
        return float(self.values[np.searchsorted(self.times, time, side="right") - 1])


@dataclass(frozen=True)
class MeanSurvival:
    """A restricted mean survival time: the area under the curve up to a horizon, and its standard error."""

    mean: float
    error: float
    horizon: float


@dataclass(frozen=True)
class Test:
    """A chi-squared test: by group the observed and the expected events, the statistic, its p-value."""

    observed: list[float]
    expected: list[float]
    statistic: float
    freedom: int
    p: float


def count_exits(cohort: Cohort, analysis: Analysis, policy: Disclosure) -> SiteExits:
    """Count a site's patients by arm, cause and the cell in which they leave: its half of every method here.

    Raises:
        WithheldError: If an arm has too few patients of some kind.
    """
    arms = []
    for arm in range(len(analysis.arm.levels)):
        chosen = cohort.arms == arm
        causes = cohort.causes[chosen]
        cells = grouped_times(cohort.cells[chosen], causes, policy.smallest_cell)
        there, places = np.unique(cells, return_inverse=True)
        rows = [
            np.bincount(places[causes == cause], minlength=len(there))
            for cause in range(len(analysis.event.causes) + 1)
        ]
        told = [cumulatively_rounded([int(count) for count in row], policy) for row in rows]
        arms.append(ArmExits(cells=[int(cell) for cell in there], events=told[1:], censored=told[0]))
    return SiteExits(
        arms=arms,
        rounded=cohort.rounded,
        truncated=cohort.truncated,
        grouped=policy.smallest_cell > 1 and len(cohort) > 0,
    )


def pool_exits(found: Sequence[ArmExits], *, step: float, causes: int) -> Exits:
    """Add up exits of several sites, or arms.

    Args:
        found: The counts.
        step: Width of the grid, in the study's unit.
        causes: How many causes there are.
    """
    cells = sorted({cell for arm in found for cell in arm.cells})
    place = {cell: number for number, cell in enumerate(cells)}
    events, censored = np.zeros((causes, len(cells)), dtype=np.int64), np.zeros(len(cells), dtype=np.int64)
    for arm in found:
        where = np.array([place[cell] for cell in arm.cells], dtype=np.int64)
        for cause, counts in enumerate(arm.events):
            events[cause, where] += np.array(counts, dtype=np.int64)
        censored[where] += np.array(arm.censored, dtype=np.int64)
    return Exits(np.array(cells, dtype=float) * step, events, censored)


def spread(arm: ArmExits, last: int) -> ArmExits:
    """Spread groups of patients evenly about the mean of their times.

    A group reaches as far to either side as, on average, half-way to the groups before and after it, of its kind. So
    a curve falls in small steps again. The totals and the means of the times stay as they are.

    Args:
        arm: Groups, each at the mean of its times.
        last: The grid's last cell.
    """
    rows = [_spread_row(arm.cells, counts, last) for counts in (*arm.events, arm.censored)]
    cells = sorted({cell for row in rows for cell in row})
    *events, censored = [[row.get(cell, 0) for cell in cells] for row in rows]
    return ArmExits(cells=cells, events=events, censored=censored)


def _spread_row(cells: Sequence[int], counts: Sequence[int], last: int) -> dict[int, int]:
    """Spread the groups of one kind; return the patients by cell."""
    groups = [(cell, count) for cell, count in zip(cells, counts, strict=True) if count]
    gaps = [other - one for (one, _), (other, _) in pairwise(groups)]
    found: dict[int, int] = {}
    for place, (cell, count) in enumerate(groups):
        beside = gaps[max(0, place - 1) : place + 1]
        half = min(sum(beside) / len(beside) / 2 if beside else cell, cell, last - cell)
        for number in range(count):
            where = round(cell + ((2 * number + 1) / count - 1) * half)
            found[where] = found.get(where, 0) + 1
    return found


def kaplan_meier(exits: Exits) -> Curve:
    """Return the product-limit estimate ``S(t) = prod_{t_j <= t} (1 - d_j / n_j)`` over all causes.

    The standard error is Greenwood's, ``S(t) sqrt(sum d_j / (n_j (n_j - d_j)))``; the interval is that of
    ``log(-log S)``, as lifelines has it.

    Reference: Kaplan, Meier (1958); Greenwood (1926); Kalbfleisch, Prentice (2002), section 1.4.

    >>> exits = Exits(np.array([1.0, 2.0]), np.array([[1, 1]]), np.array([0, 2]))
    >>> [float(round(value, 3)) for value in kaplan_meier(exits).values]
    [1.0, 0.75, 0.5]
    """
    deaths, at_risk = exits.events.sum(axis=0).astype(float), exits.at_risk.astype(float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        survival = np.cumprod(1 - deaths / at_risk)
        greenwood = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
        errors = np.where(survival > 0, survival * np.sqrt(greenwood), 0.0)
        spread = Z95 * np.sqrt(greenwood) / np.log(survival)
        low, high = survival ** np.exp(-spread), survival ** np.exp(spread)
    first = np.isnan(low) | (survival == 1.0)
    low, high = np.where(first, survival, low), np.where(first, survival, high)
    ends = np.where(survival == 0, 0.0, 1.0)
    return _from_zero(exits.times, survival, errors, (low * ends, high * ends), start=1.0)


def restricted_mean(exits: Exits, horizon: float) -> MeanSurvival:
    """Return ``int_0^h S(t) dt`` of the Kaplan-Meier curve.

    Its variance is ``sum_j A_j^2 d_j / (n_j (n_j - d_j))`` over event times up to the horizon, where ``A_j`` is the
    area under the curve from ``t_j`` to the horizon.

    Args:
        exits: The group.
        horizon: ``h``, in the study's unit. Beyond the last time the curve is taken as constant.

    Reference: Irwin (1949); Royston, Parmar (2013).
    """
    curve = kaplan_meier(exits)
    kept = curve.times < horizon
    times = np.append(curve.times[kept], horizon)
    areas = np.diff(times) * curve.values[kept]
    after = areas[::-1].cumsum()[::-1]  # from each kept time to the horizon
    deaths, at_risk = exits.events.sum(axis=0).astype(float), exits.at_risk.astype(float)
    variance = 0.0
    for time, died, risk in zip(exits.times, deaths, at_risk, strict=True):
        if 0 < died < risk and time < horizon:
            variance += (
                after[np.searchsorted(curve.times[kept], time, side="right") - 1] ** 2 * died / (risk * (risk - died))
            )
    return MeanSurvival(float(areas.sum()), math.sqrt(variance), horizon)


def logrank_sums(groups: Sequence[Exits], cause: int | None = None) -> tuple[Floats, Floats, Floats]:
    """Return observed and expected events by group, and their covariance, of one stratum.

    ``E_g = sum_j d_j n_gj / n_j``, ``V_gh = sum_j d_j (n_j - d_j) / (n_j - 1) (n_gj / n_j) (1[g=h] - n_hj / n_j)``.

    Args:
        groups: The arms.
        cause: Whose events count; None counts all.

    Reference: Mantel (1966); Peto, Peto (1972).
    """
    times = np.unique(np.concatenate([group.times for group in groups])) if groups else np.zeros(0)
    deaths, risk = np.zeros((len(groups), len(times))), np.zeros((len(groups), len(times)))
    for number, group in enumerate(groups):
        counted = group.events.sum(axis=0) if cause is None else group.events[cause]
        deaths[number, np.searchsorted(times, group.times)] = counted
        later = np.append(group.at_risk, 0)
        risk[number] = later[np.searchsorted(group.times, times)]
    died, all_risk = deaths.sum(axis=0), risk.sum(axis=0)
    share = risk / np.maximum(all_risk, 1)
    expected = (share * died).sum(axis=1)
    factor = died * (all_risk - died) / np.maximum(all_risk - 1, 1)
    covariance = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    return deaths.sum(axis=1), expected, covariance


def logrank_test(observed: Floats, expected: Floats, covariance: Floats) -> Test:
    """Return the log-rank test ``(O - E)' V^- (O - E)`` of one stratum, or of strata added up.

    >>> round(logrank_test(np.array([4.0, 6.0]), np.array([6.0, 4.0]), np.array([[2.0, -2.0], [-2.0, 2.0]])).statistic)
    2
    """
    gap = (observed - expected)[1:]
    freedom = len(gap)
    statistic = float(gap @ np.linalg.pinv(covariance[1:, 1:]) @ gap)
    return Test(observed.tolist(), expected.tolist(), statistic, freedom, chi_squared_p(statistic, freedom))


def aalen_johansen(exits: Exits, cause: int = 0) -> Curve:
    """Return the cumulative incidence of a cause, ``F_k(t) = sum_{t_j <= t} S(t_j-) d_kj / n_j``.

    Its variance is that of Marubini and Valsecchi (1995), section 10.2, which lifelines has too; the interval is that
    of ``log(-log F)``.

    Args:
        exits: The group.
        cause: Number of the cause, from 0.

    Reference: Aalen, Johansen (1978).
    """
    own, deaths = exits.events[cause].astype(float), exits.events.sum(axis=0).astype(float)
    at_risk = exits.at_risk.astype(float)
    before = np.concatenate([[1.0], np.cumprod(1 - deaths / at_risk)[:-1]]) if len(deaths) else np.zeros(0)
    incidence = np.cumsum(before * own / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(at_risk > deaths, deaths / (at_risk * (at_risk - deaths)), 0.0)
    second = before**2 * own * (at_risk - own) / at_risk**3
    third = before * own / at_risk**2
    # sum_j (F(t) - F_j)^2 a_j + sum_j b_j - 2 sum_j (F(t) - F_j) c_j, opened so that it costs one pass
    variance = incidence**2 * np.cumsum(first) - 2 * incidence * np.cumsum(incidence * first)
    variance += np.cumsum(incidence**2 * first) + np.cumsum(second)
    variance -= 2 * (incidence * np.cumsum(third) - np.cumsum(incidence * third))
    errors = np.sqrt(np.maximum(variance, 0.0))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        spread = Z95 * errors / (incidence * np.log(incidence))
        low, high = incidence ** np.exp(-spread), incidence ** np.exp(spread)
    low, high = np.where(np.isnan(low), incidence, low), np.where(np.isnan(high), incidence, high)
    return _from_zero(exits.times, incidence, errors, (low, high), start=0.0)


def median_time(curve: Curve) -> float:
    """Return the first time at which half or fewer survive; infinite if there is none."""
    below = np.flatnonzero(curve.values <= 0.5 + 1e-12)
    return float(curve.times[below[0]]) if len(below) else math.inf


def chi_squared_p(statistic: float, freedom: int) -> float:
    """Return the upper tail of the chi-squared distribution."""
    return float(gammaincc(freedom / 2, max(statistic, 0.0) / 2))


def groups_of(found: Mapping[str, SiteExits], analysis: Analysis) -> list[Exits]:
    """Return the arms, pooled over the sites."""
    causes, step = len(analysis.event.causes), analysis.time.step
    sites = [site for _, site in sorted(found.items())]
    return [
        pool_exits(
            [spread(site.arms[arm], analysis.time.cells) if site.grouped else site.arms[arm] for site in sites],
            step=step,
            causes=causes,
        )
        for arm in range(len(analysis.arm.levels))
    ]


def _from_zero(times: Floats, values: Floats, errors: Floats, ends: tuple[Floats, Floats], *, start: float) -> Curve:
    """Let a curve begin at time 0; an event at time 0 itself replaces the start."""
    if len(times) and times[0] == 0:
        return Curve(times, values, errors, *ends)
    first, none = np.array([start]), np.zeros(1)
    low, high = (np.concatenate([first, end]) for end in ends)
    return Curve(
        np.concatenate([none, times]), np.concatenate([first, values]), np.concatenate([none, errors]), low, high
    )
