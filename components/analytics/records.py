"""What crosses between coordinator and site in an analysis: a request, and an answer of sums and counts.

All of it is JSON, checked strictly on both sides. A list with a `None` in it holds cells that the site keeps back.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.analytics.plan import Disclosure
from components.later import LaterFields
from components.rounds import Name, Record, Sha256

Count = Annotated[int, Field(ge=0)]
Vector = list[float]
Matrix = list[list[float]]


class AskSummary(Record):
    """Describe the cohort: patients, means, variances, histograms, categories, by arm."""

    kind: Literal["summary"] = "summary"


class AskExits(Record):
    """Count who leaves observation at which time, by arm and cause."""

    kind: Literal["exits"] = "exits"


class AskLogrank(Record):
    """Compare the arms within the site: observed, expected, covariance."""

    kind: Literal["logrank"] = "logrank"


class AskScore(Record):
    """Differentiate the site's own partial likelihood.

    Attributes:
        covariates: Names, as in `components.analytics.plan.Analysis.regressors`.
        coefficients: Where, per unit of the scaled covariates; see `components.analytics.design`.
    """

    kind: Literal["score"] = "score"
    covariates: list[str]
    coefficients: Vector


class AskRiskSums(Record):
    """Add up, for each time, those who leave then: what risk sets over all sites are made of."""

    kind: Literal["risk_sums"] = "risk_sums"
    covariates: list[str]
    coefficients: Vector


class Hazard(Record):
    """The pooled baseline hazard, as a site needs it for its patients' residuals.

    Attributes:
        cells: Cells of the grid with an event, ascending.
        increments: Of the cumulative hazard, at each cell.
        weighted: The same, times the mean of the covariates over the risk set.
        tied_increments: Parts of `increments` that Efron's rule takes off for whoever has the event in that cell.
        tied_weighted: Parts of `weighted`, likewise.
        means: Mean of the covariates at each cell, averaged over the ties.
    """

    cells: list[Count]
    increments: Vector
    weighted: Matrix
    tied_increments: Vector
    tied_weighted: Matrix
    means: Matrix


class AskResiduals(Record):
    """Add up the squares of the patients' score residuals, and Schoenfeld residuals by time.

    Attributes:
        covariates: As in `AskScore`.
        coefficients: The estimate.
        hazard: Of all sites; None takes the site's own.
    """

    kind: Literal["residuals"] = "residuals"
    covariates: list[str]
    coefficients: Vector
    hazard: Hazard | None = None


class AskEffect(Record):
    """Estimate the arms' effect in the site alone."""

    kind: Literal["effect"] = "effect"


Question = Annotated[
    AskSummary | AskExits | AskLogrank | AskScore | AskRiskSums | AskResiduals | AskEffect,
    Field(discriminator="kind"),
]


class NumberSummary(Record):
    """A number within an arm.

    Attributes:
        patients: Who have a value; None if it is not told.
        missing: Who have none; None if it is not told, and `patients` then counts all.
        total: Sum of the values' distances from the middle of the declared range.
        squares: Sum of the squares of those distances.
        bins: Last bin of each group of the histogram, ascending.
        counts: Patients in each group.
    """

    patients: Count
    missing: Count | None
    total: float
    squares: float
    bins: list[Count]
    counts: list[Count]


class CategorySummary(Record):
    """A category within an arm: patients with each level, and without a value; None is not told."""

    counts: list[Count | None]
    missing: Count | None


class ArmSummary(Record):
    """Who was given one arm; None where the whole is too small to be described."""

    patients: Count | None
    numbers: dict[str, NumberSummary] = Field(default_factory=dict)
    categories: dict[str, CategorySummary] = Field(default_factory=dict)


class SiteSummary(Record):
    """A site's cohort, by arm."""

    kind: Literal["summary"] = "summary"
    arms: list[ArmSummary]


class ArmExits(Record):
    """Who of an arm leaves observation when.

    Attributes:
        cells: Cells of the grid at which somebody leaves, ascending.
        events: For each cause, who has its event in each of those cells.
        censored: Whose observation ends in each of those cells.
    """

    cells: list[Count]
    events: list[list[Count]]
    censored: list[Count]


class SiteExits(Record):
    """A site's patients by the time they leave.

    Attributes:
        arms: By arm.
        rounded: Whether times were rounded up to the grid.
        truncated: Whether anybody was observed beyond the grid's end.
        grouped: Whether times are means of groups of patients.
    """

    kind: Literal["exits"] = "exits"
    arms: list[ArmExits]
    rounded: bool
    truncated: bool
    grouped: bool


class SiteLogrank(Record):
    """A stratum of a log-rank test: by arm, the observed and the expected events, and their covariance."""

    kind: Literal["logrank"] = "logrank"
    observed: Vector
    expected: Vector
    covariance: Matrix


class SiteScore(Record):
    """A stratum of a Cox regression at given coefficients.

    Attributes:
        log_likelihood: Of the partial likelihood.
        gradient: Its first derivative.
        information: Minus its second.
        patients: Who have all covariates; the whole cohort, where few lack one.
        events: Of the first cause, among them.
    """

    kind: Literal["score"] = "score"
    log_likelihood: float
    gradient: Vector
    information: Matrix
    patients: Count
    events: Count


class SiteRiskSums(Record):
    """Sums over those who leave in each cell of the grid; risk sets are sums of these over later cells.

    Attributes:
        cells: Cells at which somebody leaves, ascending.
        patients: How many leave.
        events: How many of them by the first cause.
        weights: Sum of ``exp(b'x)``.
        firsts: Sum of ``exp(b'x) x``.
        seconds: Sum of ``exp(b'x) x x'``.
        event_weights: As `weights`, over those with an event.
        event_firsts: As `firsts`, over those with an event.
        event_seconds: As `seconds`, over those with an event.
        event_totals: Sum of ``x`` over those with an event.
    """

    kind: Literal["risk_sums"] = "risk_sums"
    cells: list[Count]
    patients: list[Count]
    events: list[Count]
    weights: Vector
    firsts: Matrix
    seconds: list[Matrix]
    event_weights: Vector
    event_firsts: Matrix
    event_seconds: list[Matrix]
    event_totals: Matrix


class SiteResiduals(Record):
    """Sums of residuals at the estimate.

    Attributes:
        squares: Sum over patients of the outer products of their score residuals.
        events: Number of events.
        times: Sum over events of the transformed time.
        times_squared: Sum of its squares.
        schoenfeld: Sum over events of the Schoenfeld residuals.
        schoenfeld_times: Sum of them times the transformed time.
    """

    kind: Literal["residuals"] = "residuals"
    squares: Matrix
    events: Count
    times: float
    times_squared: float
    schoenfeld: Vector
    schoenfeld_times: Vector


class SiteEffect(Record):
    """What a site alone finds: the logarithm of the hazard ratio of each arm to the first, with its standard error."""

    kind: Literal["effect"] = "effect"
    patients: Count
    events: Count
    coefficients: Vector
    standard_errors: Vector


Finding = Annotated[
    SiteSummary | SiteExits | SiteLogrank | SiteScore | SiteRiskSums | SiteResiduals | SiteEffect,
    Field(discriminator="kind"),
]


class AnalysisRequest(Record):
    """One question to one site.

    Attributes:
        study: Name of the study.
        study_digest: The study as the site knows it.
        site: Who is asked.
        question: What is asked; columns, cohort, grid and policy are the study's.
    """

    study: Name
    study_digest: Sha256
    site: Name
    question: Question


class AnalysisAnswer(Record, LaterFields):
    """What a site says.

    Attributes:
        site: Who answers.
        request_digest: SHA-256 of the request.
        status: ``done``; ``withheld`` (disclosure control keeps it back); ``refused`` (the data or the request are not
            what they should be); or ``failed``.
        reason: Why not; holds neither a path nor a patient's value.
        has_data: Whether its hospital names any data for the study; one that does not takes no part.
        finding: The record.
        cohort: What tells one cohort of this site from another, and nothing of its patients: a digest over keyed
            fingerprints, whose key never leaves the site. Empty where it has told nothing.
        policy: What the site let leave, where its own policy is stricter than the study's.
    """

    later = frozenset({"cohort", "has_data", "policy"})

    site: Name
    request_digest: Sha256
    status: Literal["done", "withheld", "refused", "failed"]
    reason: str = ""
    has_data: bool = True
    finding: Finding | None = None
    cohort: str = ""
    policy: Disclosure | None = None
