"""A Cox regression over sites: its steps, its robust errors, the check of its proportionality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from components.analytics.asking import Asking
from components.analytics.cox import Derivatives, Fit, add_risk_sums, add_scores, derivatives, newton, received
from components.analytics.cox_residuals import Proportionality, check_proportionality, hazard_of, robust_covariance
from components.analytics.design import coefficient_names
from components.analytics.meta import Effect
from components.analytics.plan import Analysis
from components.analytics.records import AskResiduals, AskRiskSums, AskScore, SiteResiduals, SiteRiskSums, SiteScore
from components.analytics.table import Floats
from components.errors import DataError

Record = TypeVar("Record")


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


def regress(asking: Asking, analysis: Analysis) -> Regression | None:
    """Fit the study's regression, with robust errors and the check of proportionality.

    Args:
        asking: Puts questions to the sites.
        analysis: Columns, and how to regress.

    Returns:
        None if every site withholds it.

    Raises:
        DataError: If there is no event, or no answer: see `components.analytics.cox.newton`.
    """
    covariates, stratified = analysis.regressors, analysis.cox.stratify == "site"
    told = fit_regression(asking, analysis, covariates, stratified=stratified, method="Cox regression")
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
        errors=standard_errors(fit.covariance, scales),
        robust_errors=[float("nan")] * len(labels) if robust is None else standard_errors(robust, scales),
        proportionality=check_proportionality(fit, {site: residuals[site] for site in sites}) if complete else None,
        patients=patients,
        events=events,
        fit=fit,
        sites=sites,
        stratified=stratified,
    )


def fit_regression(
    asking: Asking, analysis: Analysis, covariates: list[str], *, stratified: bool, method: str
) -> tuple[Fit, int, int, list[str]] | None:
    """Fit one regression; begin anew without a site that answers no further.

    Args:
        asking: Puts questions to the sites.
        analysis: Columns and ties.
        covariates: Names.
        stratified: Whether by site.
        method: Under what name sites that withhold are noted.

    Returns:
        The fit, its patients and events, and the sites that took part; None if every site withholds it.
    """
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
        asking: Asking,
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


def standard_errors(covariance: Floats, scales: Floats) -> list[float]:
    """Return standard errors per unit of the covariates."""
    return [float(value) for value in np.sqrt(np.diag(covariance)) / scales]
