"""Cox regression over sites by exact Newton steps.

The partial likelihood with Efron's ties, ``d_j`` events at ``t_j``::

    l(b) = sum_j [ b's_j - sum_{l<d_j} log( S0_j - (l/d_j) E0_j ) ]      S0_j = sum over the risk set of exp(b'x)
                                                                         E0_j = sum over the events at t_j

(Breslow's leaves out the part with ``E``). Stratified by site, ``l`` is a sum over sites: in each step a site tells
its value, gradient and information matrix, and nothing of any time. With one baseline hazard for all sites, risk sets
reach over sites: a site has to tell the sums over those who leave at each time, and where one patient leaves, that
is this patient's row. `site_risk_sums` says what disclosure control makes of that.

Both are exact: the coefficients, and their standard errors, are those of the pooled rows.

Reference: Cox (1972); Efron (1977); Breslow (1974); sums of federated Newton steps: Lu et al., "WebDISCO", JAMIA 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from components.analytics.design import Design, require_large_cells, told_counts
from components.analytics.disclosure import WithheldError, grouped_times, is_small, require_enough_rows
from components.analytics.plan import Disclosure
from components.analytics.records import SiteRiskSums, SiteScore
from components.analytics.table import Floats, Integers
from components.errors import DataError

Ties = Literal["efron", "breslow"]
MAX_STEPS = 10
_DECREMENT = 1e-16  # of Newton's method, halved square of the step in standard errors: about 1e-8 of one
_SINGULAR = 1e-10  # relative to the largest eigenvalue of the information, covariates being on one scale


@dataclass(frozen=True)
class RiskSums:
    """The arrays of `SiteRiskSums`, of one site or added up over sites.

    Attributes:
        cells: Shape (T,), ascending.
        patients: Shape (T,).
        events: Shape (T,).
        weights: ``sum exp(b'x)`` of who leaves, shape (T,).
        firsts: Times ``x``, shape (T, P).
        seconds: Times ``x x'``, shape (T, P, P).
        event_weights: As `weights`, of those with an event.
        event_firsts: As `firsts`, of those with an event.
        event_seconds: As `seconds`, of those with an event.
        event_totals: ``sum x`` of those with an event, shape (T, P).
    """

    cells: Integers
    patients: Integers
    events: Integers
    weights: Floats
    firsts: Floats
    seconds: Floats
    event_weights: Floats
    event_firsts: Floats
    event_seconds: Floats
    event_totals: Floats


@dataclass(frozen=True)
class Derivatives:
    """A log-likelihood with its gradient, shape (P,), and its information matrix, shape (P, P)."""

    log_likelihood: float
    gradient: Floats
    information: Floats


@dataclass(frozen=True)
class Fit:
    """A maximum of the partial likelihood, on the scale of the design.

    Attributes:
        coefficients: Shape (P,).
        information: At the maximum, shape (P, P).
        covariance: Its inverse.
        log_likelihood: At the maximum.
        null_log_likelihood: At zero.
        steps: Newton steps taken.
    """

    coefficients: Floats
    information: Floats
    covariance: Floats
    log_likelihood: float
    null_log_likelihood: float
    steps: int


def numbers_told(covariates: int) -> int:
    """Return how many numbers a value, a gradient and a symmetric matrix are."""
    return 1 + covariates + covariates * (covariates + 1) // 2


def risk_sums(design: Design, coefficients: Floats) -> RiskSums:
    """Add up, for each cell in which anybody leaves, what risk sets are made of."""
    order = np.argsort(design.cells, kind="stable")
    rows, events = design.rows[order], design.events[order].astype(float)
    cells, starts = np.unique(design.cells[order], return_index=True)
    with np.errstate(over="ignore"):
        weights = np.exp(np.minimum(rows @ coefficients, 500.0))

    def summed(values: Floats) -> Floats:
        """Add up the rows of each cell."""
        return np.add.reduceat(values, starts, axis=0) if len(cells) else np.zeros((0, *values.shape[1:]))

    firsts = weights[:, None] * rows
    seconds = firsts[:, :, None] * rows[:, None, :]
    return RiskSums(
        cells=cells,
        patients=summed(np.ones(len(rows))).astype(np.int64),
        events=summed(events).astype(np.int64),
        weights=summed(weights),
        firsts=summed(firsts),
        seconds=summed(seconds),
        event_weights=summed(weights * events),
        event_firsts=summed(firsts * events[:, None]),
        event_seconds=summed(seconds * events[:, None, None]),
        event_totals=summed(rows * events[:, None]),
    )


def add_risk_sums(found: Sequence[RiskSums]) -> RiskSums:
    """Add up the sites' sums over the union of their cells."""
    cells = np.unique(np.concatenate([site.cells for site in found]))
    total: dict[str, Floats] = {}
    for name in RiskSums.__dataclass_fields__:
        if name == "cells":
            continue
        first = getattr(found[0], name)
        total[name] = np.zeros((len(cells), *first.shape[1:]), dtype=first.dtype)
        for site in found:
            total[name][np.searchsorted(cells, site.cells)] += getattr(site, name)
    return RiskSums(cells=cells, **total)  # type: ignore[arg-type]  # by name, each of its own kind


@dataclass(frozen=True)
class TiedSets:
    """The risk set of each single event, ties taken one after the other.

    Attributes:
        cells: Place of the event's cell among the sums' cells, shape (D,).
        parts: Part of the tied events that the set is without, ``l / d``, shape (D,).
        weights: ``S0``, shape (D,).
        means: ``S1 / S0``, shape (D, P).
    """

    cells: Integers
    parts: Floats
    weights: Floats
    means: Floats


def tied_sets(sums: RiskSums, ties: Ties) -> TiedSets:
    """Return the risk sets of all events."""
    cells = np.repeat(np.arange(len(sums.cells)), sums.events)
    within = np.arange(len(cells)) - np.repeat(np.cumsum(sums.events) - sums.events, sums.events)
    parts = within / sums.events[cells] if ties == "efron" else np.zeros(len(cells))
    weights = _from_here_on(sums.weights)[cells] - parts * sums.event_weights[cells]
    firsts = _from_here_on(sums.firsts)[cells] - parts[:, None] * sums.event_firsts[cells]
    return TiedSets(cells, parts, weights, firsts / weights[:, None])


def derivatives(sums: RiskSums, coefficients: Floats, ties: Ties) -> Derivatives:
    """Return the partial likelihood of one stratum with its derivatives."""
    sets = tied_sets(sums, ties)
    seconds = _from_here_on(sums.seconds)[sets.cells]
    seconds = seconds - sets.parts[:, None, None] * sums.event_seconds[sets.cells]
    totals = sums.event_totals.sum(axis=0)
    return Derivatives(
        log_likelihood=float(totals @ coefficients - np.log(sets.weights).sum()),
        gradient=totals - sets.means.sum(axis=0),
        information=(seconds / sets.weights[:, None, None]).sum(axis=0) - sets.means.T @ sets.means,
    )


def site_score(design: Design, coefficients: Floats, ties: Ties, policy: Disclosure) -> SiteScore:
    """Differentiate a site's own partial likelihood: its half of the regression stratified by site.

    Args:
        design: The site's patients.
        coefficients: Where, shape (P,).
        ties: How ties are treated.
        policy: What may leave.

    Raises:
        WithheldError: If few patients are complete, have an event, or have a level of a category; or if more numbers
            would leave, over all steps, than the table has entries.
    """
    require_large_cells(design, policy)
    covariates = len(design.labels)
    require_enough_rows(len(design.cells), covariates, MAX_STEPS * numbers_told(covariates), policy)
    found = derivatives(risk_sums(design, coefficients), coefficients, ties)
    patients, events = told_counts(design, policy)
    return SiteScore(
        log_likelihood=found.log_likelihood,
        gradient=found.gradient.tolist(),
        information=found.information.tolist(),
        patients=patients,
        events=events,
    )


def site_risk_sums(design: Design, coefficients: Floats, policy: Disclosure) -> SiteRiskSums:
    """Add up who leaves when: a site's half of the regression with one baseline hazard for all sites.

    Under disclosure control it is refused, unless the policy says ``risk_sets: grouped``. Then patients are joined in
    time (`grouped_site`) until a cell tells fewer numbers, over all steps, than its patients have entries.

    Raises:
        WithheldError: If disclosure control refuses, or there are too few patients for such groups.
    """
    require_large_cells(design, policy)
    grouped = grouped_site(design, policy)
    sums = risk_sums(grouped, coefficients)
    covariates = len(design.labels)
    numbers = MAX_STEPS * len(sums.cells) * numbers_told(covariates)
    require_enough_rows(len(design.cells), covariates, numbers, policy)
    return SiteRiskSums(**{name: getattr(sums, name).tolist() for name in RiskSums.__dataclass_fields__})


def grouped_site(design: Design, policy: Disclosure) -> Design:
    """Join a site's patients in time, as far as disclosure control asks for; without it, return them as they are.

    Raises:
        WithheldError: If the policy refuses risk sets, or there are too few patients for one group.
    """
    if not policy.controlled:
        return design
    if is_small(design.cohort[0] - len(design.cells), policy):
        raise WithheldError(
            f"fewer than {policy.smallest_cell} patients lack a covariate, and the sums would tell how many"
        )
    if policy.risk_sets == "refuse":
        raise WithheldError(
            "sums over risk sets would tell single patients' rows: ask for cox.stratify: site, which tells none, or "
            "have disclosure.risk_sets: grouped agreed"
        )
    covariates = len(design.labels)
    smallest = max(policy.smallest_cell, math.ceil(MAX_STEPS * numbers_told(covariates) / covariates))
    cells = grouped_times(design.cells, design.events.astype(np.int64), smallest)
    return replace(design, cells=cells)


def received(record: SiteRiskSums) -> RiskSums:
    """Return a site's sums as arrays."""
    return RiskSums(**{
        name: np.array(getattr(record, name), dtype=np.int64 if name in ("cells", "patients", "events") else float)
        for name in RiskSums.__dataclass_fields__
    })  # fmt: skip


def add_scores(found: Sequence[SiteScore]) -> Derivatives:
    """Add up the strata."""
    return Derivatives(
        log_likelihood=math.fsum(site.log_likelihood for site in found),
        gradient=np.sum([site.gradient for site in found], axis=0),
        information=np.sum([site.information for site in found], axis=0),
    )


def newton(evaluate: Callable[[Floats], Derivatives], labels: Sequence[str]) -> Fit:
    """Maximise a log-likelihood from zero, with steps halved where one goes too far.

    Args:
        evaluate: Asks for the derivatives at given coefficients; called once a step.
        labels: Names of the coefficients, for messages.

    Raises:
        DataError: If there is no maximum: a covariate is constant or follows from others, or separates those with an
            event from all others, so that its coefficient grows without end.
    """
    coefficients = np.zeros(len(labels))
    here = evaluate(coefficients)
    null, length = here.log_likelihood, 1.0
    step = _newton_step(here, labels)
    for steps in range(MAX_STEPS):
        if float(here.gradient @ step) / 2 < _DECREMENT:
            covariance: Floats = np.asarray(np.linalg.inv(here.information), dtype=float)
            return Fit(coefficients, here.information, covariance, here.log_likelihood, null, steps)
        ahead = evaluate(coefficients + length * step)
        if not ahead.log_likelihood >= here.log_likelihood - 1e-9 * (1 + abs(here.log_likelihood)):
            length /= 2
            continue
        coefficients, here, length = coefficients + length * step, ahead, 1.0
        last, step = step, _newton_step(ahead, labels)
    moving = [label for label, moved in zip(labels, last, strict=True) if abs(moved) > 0.2] or list(labels)
    raise DataError(
        f"the regression did not converge in {MAX_STEPS} steps: the coefficient of {', '.join(moving)} goes on "
        "growing. Most likely it separates those with an event from all others (nobody has the event on one side of "
        "it); leave it out, or join its rare levels"
    )


def _newton_step(at: Derivatives, labels: Sequence[str]) -> Floats:
    """Solve for the step; refuse what has no solution."""
    values, vectors = np.linalg.eigh(at.information)
    if not values[0] > _SINGULAR * max(values[-1], 1e-300):
        blamed = [label for label, part in zip(labels, vectors[:, 0], strict=True) if abs(part) > 0.1]
        raise DataError(
            f"the regression has no single answer: {', '.join(blamed)} is constant among those who could have the "
            "event, separates them, or follows from the other covariates; leave one out"
        )
    return np.asarray(np.linalg.solve(at.information, at.gradient))


def _from_here_on(sums: Floats) -> Floats:
    """Add up each cell and all later ones."""
    return np.asarray(sums[::-1].cumsum(axis=0)[::-1])
