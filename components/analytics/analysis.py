"""An analysis from its first question to its last result: which site is asked what, and how the answers are pooled.

It knows neither Prefect nor a file: `Ask` is how a question reaches the sites. A simulation's flow, and a plain loop in
a test, differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np

from components.analytics.cox import Derivatives, Fit, add_risk_sums, add_scores, derivatives, newton, received
from components.analytics.cox_residuals import Proportionality, check_proportionality, hazard_of, robust_covariance
from components.analytics.design import coefficient_names
from components.analytics.logrank import pooled_logrank, stratified_logrank
from components.analytics.meta import Combined, Effect, combine
from components.analytics.plan import ARM, Analysis, AnalysisStudy
from components.analytics.power import SampleSize, sample_size
from components.analytics.records import (
    AnalysisAnswer,
    AskEffect,
    AskExits,
    AskLogrank,
    AskResiduals,
    AskRiskSums,
    AskScore,
    AskSummary,
    Question,
    SiteEffect,
    SiteExits,
    SiteLogrank,
    SiteResiduals,
    SiteRiskSums,
    SiteScore,
    SiteSummary,
)
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
from components.analytics.table import Floats
from components.errors import DataError

Record = TypeVar("Record")


class Ask(Protocol):
    """Puts one question to all sites."""

    def __call__(self, question: Question, step: str) -> Mapping[str, AnalysisAnswer]:
        """Return each site's answer; `step` says what the question is for."""
        ...


@dataclass(frozen=True)
class Regression:
    """A Cox regression, per unit of each covariate.

    Attributes:
        labels: Name of each coefficient.
        coefficients: Logarithms of the hazard ratios.
        errors: Their standard errors.
        robust_errors: Those of Lin and Wei.
        proportionality: The check, or None where it was not asked for.
        patients: Who had every covariate; at a site where few lacked one, under disclosure control, all.
        events: Of the first cause, among them.
        fit: On the scale of the design.
        sites: Who took part.
        stratified: Whether by site.
    """

    labels: list[str]
    coefficients: list[float]
    errors: list[float]
    robust_errors: list[float]
    proportionality: Proportionality | None
    patients: int
    events: int
    fit: Fit
    sites: list[str]
    stratified: bool

    def effects(self) -> dict[str, Effect]:
        """Return each coefficient with its interval."""
        return {
            label: Effect(value, error)
            for label, value, error in zip(self.labels, self.coefficients, self.errors, strict=True)
        }


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
    asking = _Asking(study, ask)
    summaries = asking.all(AskSummary(), "summary", SiteSummary)
    exits = asking.all(AskExits(), "exits", SiteExits)
    _require_patients(study.analysis, summaries, exits)
    found = Results(study, sites=asking.sites, left_out=asking.left_out, notes=_notes(study.analysis, summaries, exits))
    found = _describe(found, summaries, exits)
    wanted = set(study.analysis.methods)
    if "logrank" in wanted:
        strata = asking.all(AskLogrank(), "stratified log-rank", SiteLogrank)
        tests = {"pooled": pooled_logrank(exits, study.analysis)} if exits else {}
        stratified = {"stratified by site": stratified_logrank(strata)} if strata else {}
        found = replace(found, logrank=tests | stratified)
    if "cox" in wanted:
        found = replace(found, cox=_cox(asking, study.analysis))
        if found.cox is not None and not found.cox.stratified and study.analysis.disclosure.controlled:
            words = "The regression comes from risk sets over groups of patients in time, and is an approximation."
            found = replace(found, notes=[*found.notes, f"Disclosure control: {words}"])
    if "meta_analysis" in wanted:
        found = _combine(found, asking)
    return found


class _Asking:
    """Puts questions, and sorts the answers."""

    def __init__(self, study: AnalysisStudy, ask: Ask) -> None:
        self.study, self._ask = study, ask
        self.sites: list[str] = []
        self.left_out: dict[str, dict[str, str]] = {}

    def all(
        self, question: Question, step: str, kind: type[Record], *, lenient: bool = False, method: str = ""
    ) -> dict[str, Record]:
        """Return the findings of those who answer; note who withholds, raise if anybody cannot answer.

        Args:
            question: What is asked.
            step: What it is for.
            kind: What the answer must be.
            lenient: Also note, and not raise, where a site's data have no answer.
            method: Under what name those who withhold are noted; the step by default.
        """
        answers = dict(sorted(self._ask(question, step).items()))
        self.sites = self.sites or list(answers)
        tolerated = ("withheld", "refused") if lenient else ("withheld",)
        wrong = [f"{site}: {item.reason}" for site, item in answers.items() if item.status not in ("done", *tolerated)]
        wrong += [
            f"{site}: it answered something else than {step}"
            for site, item in answers.items()
            if item.status == "done" and not isinstance(item.finding, kind)
        ]
        if wrong:
            raise DataError("\n".join(wrong))
        for site, item in answers.items():
            if item.status != "done":
                self.left_out.setdefault(method or step, {})[site] = item.reason
        return {site: item.finding for site, item in answers.items() if isinstance(item.finding, kind)}


def _require_patients(analysis: Analysis, summaries: Mapping[str, SiteSummary], exits: Mapping[str, SiteExits]) -> None:
    """Refuse to go on without events, or with an empty arm."""
    if len(exits) < len(summaries):
        return  # what is not told cannot be missed; each method says who is left out
    for number, (level, group) in enumerate(zip(analysis.arm.levels, groups_of(exits, analysis), strict=True)):
        if not group.patients:
            raise DataError(
                f"nobody at any site is in arm {level}: column {analysis.arm.column} of the study's level number "
                f"{number + 1}; is it written like that in the tables?"
            )
    if not sum(int(group.events[0].sum()) for group in groups_of(exits, analysis)):
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


def _cox(asking: _Asking, analysis: Analysis) -> Regression | None:
    """Fit the study's regression, with robust errors and the check of proportionality."""
    covariates, stratified = analysis.regressors, analysis.cox.stratify == "site"
    told = _fit(asking, analysis, covariates, stratified=stratified, method="Cox regression")
    if told is None:
        return None
    fit, patients, events, sites = told
    hazard = None
    if not stratified:
        question = AskRiskSums(covariates=covariates, coefficients=fit.coefficients.tolist())
        sums = asking.all(question, "Cox regression: hazard", SiteRiskSums, method="Cox regression")
        pooled = add_risk_sums([received(item) for site, item in sums.items() if site in sites])
        hazard = hazard_of(pooled, analysis.cox.ties)
    residuals = asking.all(
        AskResiduals(covariates=covariates, coefficients=fit.coefficients.tolist(), hazard=hazard),
        "Cox regression: residuals", SiteResiduals, method="Cox regression: robust errors",
    )  # fmt: skip
    labels, scales = coefficient_names(analysis, covariates)
    complete = set(sites) <= residuals.keys()
    robust = robust_covariance(fit, [residuals[site] for site in sites]) if complete else None
    return Regression(
        labels=labels,
        coefficients=(fit.coefficients / scales).tolist(),
        errors=_errors(fit.covariance, scales),
        robust_errors=[float("nan")] * len(labels) if robust is None else _errors(robust, scales),
        proportionality=check_proportionality(fit, {site: residuals[site] for site in sites}) if complete else None,
        patients=patients,
        events=events,
        fit=fit,
        sites=sites,
        stratified=stratified,
    )


def _fit(
    asking: _Asking, analysis: Analysis, covariates: list[str], *, stratified: bool, method: str
) -> tuple[Fit, int, int, list[str]] | None:
    """Fit one regression; begin anew without a site that answers no further."""
    labels, _ = coefficient_names(analysis, covariates)
    out = set[str]()
    while True:
        steps = _Steps(asking, analysis, covariates, stratified=stratified, method=method, out=out)
        try:
            fit = newton(steps.evaluate, labels)
        except _SiteLeftError as left:
            out |= left.sites
            continue
        except _NobodyError:
            return None
        return fit, steps.patients, steps.events, sorted(steps.sites)


class _SiteLeftError(Exception):
    """Sites answered a first step of a regression, and not a later one."""

    def __init__(self, sites: set[str]) -> None:
        super().__init__(", ".join(sorted(sites)))
        self.sites = sites


class _NobodyError(Exception):
    """No site answers."""


class _Steps:
    """The steps of one regression: all of them with the same sites."""

    def __init__(
        self,
        asking: _Asking,
        analysis: Analysis,
        covariates: list[str],
        *,
        stratified: bool,
        method: str,
        out: set[str],
    ) -> None:
        self._asking, self._analysis, self._covariates = asking, analysis, covariates
        self._stratified, self._method, self._out = stratified, method, out
        self._number = 0
        self.sites: set[str] = set()
        self.patients = self.events = 0

    def evaluate(self, coefficients: Floats) -> Derivatives:
        """Ask all sites for one step, and add up."""
        self._number += 1
        step, given = f"{self._method}: step {self._number}", coefficients.tolist()
        if self._stratified:
            score = AskScore(covariates=self._covariates, coefficients=given)
            scores = self._same(self._asking.all(score, step, SiteScore, method=self._method))
            self.patients = sum(item.patients for item in scores.values())
            self.events = sum(item.events for item in scores.values())
            self._require_events()
            return add_scores(list(scores.values()))
        question = AskRiskSums(covariates=self._covariates, coefficients=given)
        sums = self._same(self._asking.all(question, step, SiteRiskSums, method=self._method))
        pooled = add_risk_sums([received(item) for item in sums.values()])
        self.patients, self.events = int(pooled.patients.sum()), int(pooled.events.sum())
        self._require_events()
        return derivatives(pooled, coefficients, self._analysis.cox.ties)

    def _require_events(self) -> None:
        """Refuse a regression without events."""
        if not self.events:
            raise DataError("the regression has no events: everybody with all covariates is censored")

    def _same(self, found: dict[str, Record]) -> dict[str, Record]:
        """Hold on to the sites of the first step."""
        kept = {site: item for site, item in found.items() if site not in self._out}
        if not kept:
            raise _NobodyError
        if self._number == 1:
            self.sites = set(kept)
        elif self.sites - kept.keys():
            raise _SiteLeftError(self.sites - kept.keys())
        return {site: kept[site] for site in sorted(self.sites)}


def _combine(found: Results, asking: _Asking) -> Results:
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
    told = _fit(asking, analysis, [ARM], stratified=True, method="pooled effect")
    pooled = {}
    if told is not None:
        values, errors = told[0].coefficients / scales, _errors(told[0].covariance, scales)
        pooled = {
            label: Effect(float(value), error) for label, value, error in zip(labels, values, errors, strict=True)
        }
    combined = {label: combine([row[label] for row in effects.values()]) for label in labels} if effects else {}
    return replace(found, effects=effects, combined=combined, pooled_effect=pooled)


def _errors(covariance: Floats, scales: Floats) -> list[float]:
    """Return standard errors per unit of the covariates."""
    return [float(value) for value in np.sqrt(np.diag(covariance)) / scales]
