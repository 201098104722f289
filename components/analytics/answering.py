"""The site's half of every method, by the kind of the question: a pure function from a question and a table.

A hospital's process can call it as another kind of call: JSON in, JSON out, no file, no clock, no network.
"""

from __future__ import annotations

import numpy as np

from components.analytics.cox import derivatives, grouped_site, newton, risk_sums, site_risk_sums, site_score
from components.analytics.cox_residuals import hazard_of, sum_residuals
from components.analytics.design import build_design, coefficient_names, require_large_cells, told_counts
from components.analytics.logrank import compare_arms
from components.analytics.plan import ARM, Analysis, Disclosure
from components.analytics.records import (
    AskExits,
    AskLogrank,
    AskResiduals,
    AskRiskSums,
    AskScore,
    AskSummary,
    Finding,
    Question,
    SiteEffect,
    SiteResiduals,
)
from components.analytics.statistics import summarise
from components.analytics.survival import count_exits
from components.analytics.table import Cohort
from components.errors import DataError, RefusedError


def answer(question: Question, cohort: Cohort, analysis: Analysis, policy: Disclosure) -> Finding:
    """Answer a question over a site's cohort.

    Args:
        question: What is asked.
        cohort: The site's patients.
        analysis: Columns, grid and methods, as agreed.
        policy: What may leave.

    Returns:
        Sums and counts, no row of any patient.

    Raises:
        WithheldError: If disclosure control keeps the answer back.
        RefusedError: If the question does not fit the study.
        DataError: If it has no answer over these patients.
    """
    if isinstance(question, AskSummary):
        return summarise(cohort, analysis, policy)
    if isinstance(question, AskExits):
        return count_exits(cohort, analysis, policy)
    if isinstance(question, AskLogrank):
        return compare_arms(cohort, analysis, policy)
    if isinstance(question, AskScore | AskRiskSums | AskResiduals):
        return _regress(question, cohort, analysis, policy)
    return own_effect(cohort, analysis, policy)


def own_effect(cohort: Cohort, analysis: Analysis, policy: Disclosure) -> SiteEffect:
    """Estimate the arms' effect from one site's patients alone, for a meta-analysis.

    Raises:
        RefusedError: If the site has no events, nobody in an arm, or no estimate.
        WithheldError: If an arm or the events are few.
    """
    design = build_design(cohort, analysis, [ARM])
    if not design.events.any():
        raise RefusedError("it has no events, so no effect of its own")
    counts = np.bincount(cohort.arms, minlength=len(analysis.arm.levels))
    if not counts.all():
        raise RefusedError("nobody there was given one of the arms, so it has no effect of its own")
    require_large_cells(design, policy)
    try:
        fit = newton(lambda at: derivatives(risk_sums(design, at), at, analysis.cox.ties), design.labels)
    except DataError as error:
        raise RefusedError(str(error)) from error
    patients, events = told_counts(design, policy)
    return SiteEffect(
        patients=patients,
        events=events,
        coefficients=(fit.coefficients / design.scales).tolist(),
        standard_errors=(np.sqrt(np.diag(fit.covariance)) / design.scales).tolist(),
    )


def _regress(
    question: AskScore | AskRiskSums | AskResiduals, cohort: Cohort, analysis: Analysis, policy: Disclosure
) -> Finding:
    """Answer one step of a regression."""
    expected = len(_labels(question, analysis))
    if len(question.coefficients) != expected:
        raise RefusedError(f"a regression with {expected} coefficients was asked for at {len(question.coefficients)}")
    at = np.array(question.coefficients, dtype=float)
    if not np.isfinite(at).all():
        raise RefusedError("a regression was asked for at coefficients that are not finite")
    design = build_design(cohort, analysis, question.covariates)
    if isinstance(question, AskScore):
        return site_score(design, at, analysis.cox.ties, policy)
    if isinstance(question, AskRiskSums):
        return site_risk_sums(design, at, policy)
    return _residuals(question, cohort, analysis, policy)


def _residuals(question: AskResiduals, cohort: Cohort, analysis: Analysis, policy: Disclosure) -> SiteResiduals:
    """Add up the residuals, with the site's own hazard or that of all sites."""
    at = np.array(question.coefficients, dtype=float)
    design, hazard = build_design(cohort, analysis, question.covariates), question.hazard
    require_large_cells(design, policy)
    if hazard is None:
        hazard = hazard_of(risk_sums(design, at), analysis.cox.ties)
    else:
        design = grouped_site(design, policy)
        missing = set(design.cells[design.events].tolist()) - set(hazard.cells)
        rows = {len(hazard.cells), *(len(getattr(hazard, name)) for name in ("increments", "weighted", "means"))}
        if missing or len(rows) != 1:
            raise RefusedError("the pooled hazard does not cover this site's events")
    return sum_residuals(design, at, hazard, step=analysis.time.step, transform=analysis.cox.transform, policy=policy)


def _labels(question: AskScore | AskRiskSums | AskResiduals, analysis: Analysis) -> list[str]:
    """Return the labels of a question's coefficients, if its covariates are the study's."""
    known = {ARM, *(item.name for item in analysis.covariates)}
    if not question.covariates or not known.issuperset(question.covariates):
        raise RefusedError("a regression was asked for over columns that the study does not have")
    return coefficient_names(analysis, question.covariates)[0]
