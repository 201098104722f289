"""What is checked of an answer before it is used: its form, against the study's columns and the question's terms.

Sites are not believed: a number can be wrong unseen, but none can make the pooling fail half-way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from components.analytics.plan import Analysis
from components.analytics.records import (
    ArmExits,
    ArmSummary,
    AskResiduals,
    AskRiskSums,
    AskScore,
    Finding,
    NumberSummary,
    Question,
    SiteEffect,
    SiteExits,
    SiteLogrank,
    SiteResiduals,
    SiteRiskSums,
    SiteScore,
    SiteSummary,
)


def unsound(finding: Finding, question: Question, analysis: Analysis) -> str:
    """Return what is wrong with the form of a finding, in words; empty if nothing is.

    Args:
        finding: What a site found.
        question: What it was asked.
        analysis: The study's columns, arms, causes and grid.
    """
    try:
        json.dumps(finding.model_dump(mode="python"), allow_nan=False)
    except ValueError:
        return "it told numbers that are not finite"
    return "" if _fits(finding, question, analysis) else f"its {finding.kind} has not the form that the study asks for"


def _fits(finding: Finding, question: Question, analysis: Analysis) -> bool:
    """Whether every list of a finding is as long as it has to be."""
    arms = len(analysis.arm.levels)
    regression = isinstance(question, AskScore | AskRiskSums | AskResiduals)
    terms = len(question.coefficients) if regression else 0  # type: ignore[union-attr]  # it is one of these
    match finding:
        case SiteSummary():
            return len(finding.arms) == arms and all(_summary_fits(arm, analysis) for arm in finding.arms)
        case SiteExits():
            return len(finding.arms) == arms and all(_exits_fit(arm, analysis) for arm in finding.arms)
        case SiteLogrank():
            return _is(finding.observed, arms) and _is(finding.expected, arms) and _is(finding.covariance, arms, arms)
        case SiteScore():
            return _is(finding.gradient, terms) and _is(finding.information, terms, terms)
        case SiteRiskSums():
            return _sums_fit(finding, terms, analysis)
        case SiteResiduals():
            lists = (finding.schoenfeld, finding.schoenfeld_times)
            return _is(finding.squares, terms, terms) and all(_is(one, terms) for one in lists)
        case SiteEffect():
            told = _is(finding.coefficients, arms - 1) and _is(finding.standard_errors, arms - 1)
            return told and all(error > 0 for error in finding.standard_errors)


def _summary_fits(arm: ArmSummary, analysis: Analysis) -> bool:
    """Whether an arm is described by the study's covariates, or not at all."""
    if arm.patients is None:
        return True
    bins = {item.name: item.bins for item in analysis.covariates if item.kind == "number"}
    levels = {item.name: len(item.levels or []) for item in analysis.covariates if item.kind == "category"}
    if set(arm.numbers) != set(bins) or set(arm.categories) != set(levels):
        return False
    numbers = all(_number_fits(arm.numbers[name], most) for name, most in bins.items())
    return numbers and all(_is(arm.categories[name].counts, count) for name, count in levels.items())


def _number_fits(number: NumberSummary, bins: int) -> bool:
    """Whether a histogram has its groups in order, within the bins."""
    return len(number.bins) == len(number.counts) and _ascending(number.bins, bins - 1)


def _exits_fit(arm: ArmExits, analysis: Analysis) -> bool:
    """Whether exits are counted for every cause, in order of time, within the grid."""
    counted = _is([*arm.events, arm.censored], len(analysis.event.causes) + 1, len(arm.cells))
    return counted and _ascending(arm.cells, analysis.time.cells)


def _sums_fit(sums: SiteRiskSums, terms: int, analysis: Analysis) -> bool:
    """Whether sums over risk sets have an entry for each cell."""
    cells = len(sums.cells)
    singles = (sums.patients, sums.events, sums.weights, sums.event_weights)
    vectors = (sums.firsts, sums.event_firsts, sums.event_totals)
    shaped = all(_is(one, cells) for one in singles) and all(_is(one, cells, terms) for one in vectors)
    matrices = all(_is(one, cells, terms, terms) for one in (sums.seconds, sums.event_seconds))
    return shaped and matrices and _ascending(sums.cells, analysis.time.cells)


def _is(value: Sequence[Any], *shape: int) -> bool:
    """Whether nested lists have a shape.

    >>> _is([[1, 2], [3, 4]], 2, 2), _is([[1, 2], [3]], 2, 2)
    (True, False)
    """
    return len(value) == shape[0] and (len(shape) == 1 or all(_is(part, *shape[1:]) for part in value))


def _ascending(places: Sequence[int], last: int) -> bool:
    """Whether places rise from one to the next, up to a last one at the most."""
    return all(before < after for before, after in pairwise([*places, last + 1]))
