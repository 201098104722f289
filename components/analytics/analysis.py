"""An analysis from its first question to its last result: which site is asked what, and how the answers are pooled.

It knows neither Prefect nor a file: `Ask` is how a question reaches the sites. A simulation's flow, and a plain loop in
a test, differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from components.analytics.asking import Ask, Asking
from components.analytics.design import coefficient_names
from components.analytics.logrank import pooled_logrank, stratified_logrank
from components.analytics.meta import Combined, Effect, combine
from components.analytics.opposite import exchanged_events, logrank_effects, opposite_effects
from components.analytics.plan import ARM, Analysis, AnalysisStudy
from components.analytics.power import SampleSize, sample_size
from components.analytics.records import (
    AskEffect,
    AskExits,
    AskLogrank,
    AskSummary,
    SiteEffect,
    SiteExits,
    SiteLogrank,
    SiteSummary,
)
from components.analytics.regression import Regression, fit_regression, regress, standard_errors
from components.analytics.statistics import Table1, pool_summaries
from components.analytics.survival import (
    Curve,
    Exits,
    MeanSurvival,
    Test,
    aalen_johansen,
    groups_of,
    kaplan_meier,
    restricted_mean,
)
from components.errors import DataError


@dataclass(frozen=True)
class Results:
    """What an analysis found; None, or empty, where it was not asked for or every site withheld it.

    Attributes:
        study: The study.
        sites: Names of the sites.
        table1: Patients by arm.
        exits: By arm, who leaves when.
        survival: By arm, Kaplan-Meier.
        means: By arm, the restricted mean survival time.
        logrank: ``pooled`` and ``stratified by site``.
        incidence: By cause, then arm.
        cox: The regression.
        effects: By site, the effect of each further arm, from that site alone.
        combined: The same over sites, by arm.
        pooled_effect: The effect of each further arm from all rows, stratified by site.
        size: The trial that is planned.
        notes: What a reader has to know.
        left_out: By method and site, why it takes no part.
    """

    study: AnalysisStudy
    sites: list[str]
    table1: Table1 | None = None
    exits: list[Exits] = field(default_factory=list)
    survival: list[Curve] = field(default_factory=list)
    means: list[MeanSurvival] = field(default_factory=list)
    logrank: dict[str, Test] = field(default_factory=dict)
    incidence: dict[str, list[Curve]] = field(default_factory=dict)
    cox: Regression | None = None
    effects: dict[str, dict[str, Effect]] = field(default_factory=dict)
    combined: dict[str, Combined] = field(default_factory=dict)
    pooled_effect: dict[str, Effect] = field(default_factory=dict)
    size: SampleSize | None = None
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)


def analyse(study: AnalysisStudy, ask: Ask) -> Results:
    """Ask the sites what the study's methods need, and pool what they answer.

    Raises:
        DataError: Naming every site whose table is not what the study says; or if the pooled patients have no events,
            nobody in an arm, or no answer to a regression.
    """
    asking = Asking(study, ask)
    summaries = asking.all(AskSummary(), "summary", SiteSummary)
    exits = asking.all(AskExits(), "exits", SiteExits)
    _require_patients(study.analysis, summaries, exits)
    found = Results(study, sites=asking.sites, left_out=asking.left_out, notes=_notes(study.analysis, summaries, exits))
    found = _describe(found, summaries, exits)
    wanted = set(study.analysis.methods)
    strata: dict[str, SiteLogrank] = {}
    if "logrank" in wanted:
        strata = asking.all(AskLogrank(), "stratified log-rank", SiteLogrank)
        tests = {"pooled": pooled_logrank(exits, study.analysis)} if exits else {}
        stratified = {"stratified by site": stratified_logrank(strata)} if strata else {}
        found = replace(found, logrank=tests | stratified)
    if "cox" in wanted:
        found = replace(found, cox=regress(asking, study.analysis))
        if found.cox is not None and not found.cox.stratified and study.analysis.disclosure.controlled:
            words = "The regression comes from risk sets over groups of patients in time, and is an approximation."
            found = replace(found, notes=[*found.notes, f"Disclosure control: {words}"])
    if "meta_analysis" in wanted:
        found = _combine(found, asking)
    opposite = opposite_effects(found.effects or logrank_effects(strata, study.analysis))
    return replace(found, notes=[*found.notes, *opposite])


def _require_patients(analysis: Analysis, summaries: Mapping[str, SiteSummary], exits: Mapping[str, SiteExits]) -> None:
    """Refuse to go on without events, or with an empty arm."""
    if not exits or len(exits) < len(summaries):
        return  # what is not told cannot be missed; each method says who is left out
    groups = groups_of(exits, analysis)
    for number, (level, group) in enumerate(zip(analysis.arm.levels, groups, strict=True)):
        if not group.patients:
            raise DataError(
                f"nobody at any site is in arm {level}: column {analysis.arm.column} of the study's level number "
                f"{number + 1}; is it written like that in the tables?"
            )
    if not sum(int(group.events[0].sum()) for group in groups):
        raise DataError(
            f"there is no event at any site: everybody counts as censored. Does 1 mean the event in column "
            f"{analysis.event.column}, and does the grid reach far enough ({analysis.time.end:g} {analysis.time.unit})?"
        )


def _notes(analysis: Analysis, summaries: Mapping[str, SiteSummary], exits: Mapping[str, SiteExits]) -> list[str]:
    """Say what a reader has to know of the answers."""
    notes, time = list[str](), analysis.time
    rounded = [site for site, found in exits.items() if found.rounded]
    if rounded:
        notes.append(
            f"Times were rounded up to the grid of {time.step:g} {time.unit} at {', '.join(rounded)}; the results are "
            "those of the rounded times."
        )
    truncated = [site for site, found in exits.items() if found.truncated]
    if truncated:
        notes.append(
            f"Patients observed beyond {time.end:g} {time.unit} count as censored there, at {', '.join(truncated)}."
        )
    if any(found.grouped for found in exits.values()):
        notes.append(
            "Disclosure control: survival curves, their means and the pooled log-rank test come from times that were "
            f"joined in groups of {analysis.disclosure.smallest_cell} or more patients, and are approximations, "
            "least to be trusted where few are at risk. The log-rank test and the regression stratified by site are "
            "not affected."
        )
    for site, found in exits.items():
        if not any(sum(arm.events[0]) for arm in found.arms):
            notes.append(f"{site} has no events; it counts among those at risk only.")
    notes += exchanged_events(exits)
    for site, described in summaries.items():
        empty = [level for level, arm in zip(analysis.arm.levels, described.arms, strict=True) if arm.patients == 0]
        if empty:
            notes.append(f"{site} has nobody in arm {', '.join(empty)}; stratified by site it tells nothing of it.")
    return notes


def _describe(found: Results, summaries: Mapping[str, SiteSummary], exits: Mapping[str, SiteExits]) -> Results:
    """Add what comes from the first two questions."""
    analysis, wanted = found.study.analysis, set(found.study.analysis.methods)
    if "summary" in wanted and summaries:
        found = replace(found, table1=pool_summaries(summaries, analysis))
    if not exits:
        return found
    groups = groups_of(exits, analysis)
    found = replace(found, exits=groups)
    if "kaplan_meier" in wanted:
        found = replace(found, survival=[kaplan_meier(group) for group in groups])
    if "rmst" in wanted:
        horizon = analysis.horizon or analysis.time.end
        seen = min(float(group.times[-1]) for group in groups)
        notes = [*found.notes]
        if horizon > seen:
            notes.append(
                f"The restricted mean up to {horizon:g} {analysis.time.unit} goes beyond the last time of an arm, "
                f"{seen:g}; its curve is taken as constant from there. Give a smaller analysis.horizon."
            )
        found = replace(found, means=[restricted_mean(group, horizon) for group in groups], notes=notes)
    if "competing_risks" in wanted:
        causes = enumerate(analysis.event.causes)
        found = replace(
            found, incidence={name: [aalen_johansen(group, cause) for group in groups] for cause, name in causes}
        )
    if "power" in wanted:
        events = sum(int(group.events[0].sum()) for group in groups)
        share = analysis.power.event_share or events / sum(group.patients for group in groups)
        found = replace(found, size=sample_size(analysis.power, event_share=share, events_here=events))
    return found


def _combine(found: Results, asking: Asking) -> Results:
    """Add the sites' own effects, what they make together, and the pooled effect."""
    analysis = found.study.analysis
    own = asking.all(AskEffect(), "meta-analysis", SiteEffect, lenient=True)
    labels, scales = coefficient_names(analysis, [ARM])
    effects = {
        site: {
            label: Effect(value, error)
            for label, value, error in zip(labels, item.coefficients, item.standard_errors, strict=True)
        }
        for site, item in own.items()
    }
    told = fit_regression(asking, analysis, [ARM], stratified=True, method="pooled effect")
    pooled = {}
    if told is not None:
        values, errors = told[0].coefficients / scales, standard_errors(told[0].covariance, scales)
        pooled = {
            label: Effect(float(value), error) for label, value, error in zip(labels, values, errors, strict=True)
        }
    combined = {label: combine([row[label] for row in effects.values()]) for label in labels} if effects else {}
    return replace(found, effects=effects, combined=combined, pooled_effect=pooled)
