"""After a Cox regression: robust standard errors, and a check of proportional hazards, from sums of residuals.

The score residual of patient ``i``, with ``a_j`` the mean of the covariates over the risk set at ``t_j``::

    u_i = delta_i (x_i - a(t_i)) - sum_{t_j <= t_i} exp(b'x_i) (x_i - a_j) dL_j

Robust: ``I^-1 (sum_i u_i u_i') I^-1`` (Lin, Wei 1989).

Proportionality: Grambsch and Therneau (1994), in the form that lifelines has. For coefficient ``k`` it is
``d (V u)_k^2 / (V_kk sum (g - mean g)^2)`` with ``u = sum (g_i - mean g) r_i`` over events, ``r`` the Schoenfeld
residuals and ``g`` the transformed time.

What leaves a site are these sums over all of its patients. Ties by Efron's rule count as in Therneau and Grambsch
(2000), section 3.2; lifelines has them so in the Schoenfeld residuals, and leaves them out of the score residuals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from components.analytics.cox import Fit, RiskSums, Ties, tied_sets
from components.analytics.design import Design, told_counts
from components.analytics.disclosure import FREE
from components.analytics.plan import Disclosure
from components.analytics.records import Hazard, SiteResiduals
from components.analytics.survival import chi_squared_p
from components.analytics.table import Floats
from components.errors import DataError


@dataclass(frozen=True)
class Proportionality:
    """The check: by coefficient a chi-squared statistic with one degree of freedom, and its p-value."""

    statistics: Floats
    p: list[float]
    total: float
    total_p: float


def hazard_of(sums: RiskSums, ties: Ties) -> Hazard:
    """Return the baseline hazard of a stratum as residuals need it."""
    sets = tied_sets(sums, ties)
    there = np.flatnonzero(sums.events)
    where = np.searchsorted(there, sets.cells)
    each = 1 / sets.weights

    def summed(values: Floats) -> Floats:
        """Add up over the ties of each cell."""
        total = np.zeros((len(there), *values.shape[1:]))
        np.add.at(total, where, values)
        return total

    return Hazard(
        cells=sums.cells[there].tolist(),
        increments=summed(each).tolist(),
        weighted=summed(each[:, None] * sets.means).tolist(),
        tied_increments=summed(each * sets.parts).tolist(),
        tied_weighted=summed((each * sets.parts)[:, None] * sets.means).tolist(),
        means=(summed(sets.means) / sums.events[there][:, None]).tolist(),
    )


def sum_residuals(
    design: Design,
    coefficients: Floats,
    hazard: Hazard,
    *,
    step: float,
    transform: Literal["identity", "log"],
    policy: Disclosure = FREE,
) -> SiteResiduals:
    """Add up a site's residuals: its half of both.

    Args:
        design: The patients, with the times that the hazard was made of.
        coefficients: The estimate, shape (P,).
        hazard: Of the stratum, or of all sites.
        step: Width of the time grid.
        transform: Of time.
        policy: What may leave.

    Raises:
        DataError: If the logarithm is asked for and an event is at time 0.
    """
    covariates = len(design.labels)
    weights = np.exp(design.rows @ coefficients)
    residuals = _score_residuals(design, weights, hazard)
    at, rows = design.cells[design.events], design.rows[design.events]
    times = _transformed(at.astype(float) * step, transform)
    means = np.array(hazard.means).reshape(-1, covariates)
    schoenfeld = rows - means[np.searchsorted(hazard.cells, at)] if len(at) else np.zeros((0, covariates))
    return SiteResiduals(
        squares=(residuals.T @ residuals).tolist(),
        events=told_counts(design, policy)[1],
        times=float(times.sum()),
        times_squared=float((times**2).sum()),
        schoenfeld=schoenfeld.sum(axis=0).tolist(),
        schoenfeld_times=(times @ schoenfeld).tolist(),
    )


def robust_covariance(fit: Fit, found: Sequence[SiteResiduals]) -> Floats:
    """Return the sandwich of Lin and Wei, shape (P, P), on the scale of the design."""
    squares = np.sum([site.squares for site in found], axis=0)
    return np.asarray(fit.covariance @ squares @ fit.covariance)


def check_proportionality(fit: Fit, found: Mapping[str, SiteResiduals]) -> Proportionality:
    """Test whether coefficients change with time.

    Returns:
        NaN where all events have one time.
    """
    sites = [site for _, site in sorted(found.items())]
    events = sum(site.events for site in sites)
    mean = sum(site.times for site in sites) / max(events, 1)
    spread = sum(site.times_squared for site in sites) - events * mean**2
    moved = np.sum([np.array(site.schoenfeld_times) - mean * np.array(site.schoenfeld) for site in sites], axis=0)
    freedom = len(fit.coefficients)
    if spread <= 1e-12 * max(1.0, mean**2):
        nothing = np.full(freedom, np.nan)
        return Proportionality(nothing, nothing.tolist(), float("nan"), float("nan"))
    statistics = events * (fit.covariance @ moved) ** 2 / (np.diag(fit.covariance) * spread)
    total = float(events * moved @ fit.covariance @ moved / spread)
    return Proportionality(
        statistics, [chi_squared_p(float(value), 1) for value in statistics], total, chi_squared_p(total, freedom)
    )


def _score_residuals(design: Design, weights: Floats, hazard: Hazard) -> Floats:
    """Return each patient's score residual, shape (N, P)."""
    covariates = len(design.labels)
    weighted = np.array(hazard.weighted).reshape(-1, covariates)
    summed = np.concatenate([[0.0], np.cumsum(hazard.increments)])
    summed_weighted = np.concatenate([np.zeros((1, covariates)), np.cumsum(weighted, axis=0)])
    until = np.searchsorted(hazard.cells, design.cells, side="right")
    expected = weights[:, None] * (design.rows * summed[until][:, None] - summed_weighted[until])
    residuals: Floats = -expected
    own = design.events
    at = np.searchsorted(hazard.cells, design.cells[own])
    if len(at):
        means, tied = np.array(hazard.means)[at], np.array(hazard.tied_increments)[at]
        off = design.rows[own] * tied[:, None] - np.array(hazard.tied_weighted)[at]
        residuals[own] += design.rows[own] - means + weights[own][:, None] * off
    return residuals


def _transformed(times: Floats, transform: Literal["identity", "log"]) -> Floats:
    """Transform the times of events."""
    if transform == "identity":
        return times
    if (times <= 0).any():
        raise DataError("an event at time 0 has no logarithm: use the transform identity")
    return np.asarray(np.log(times))
