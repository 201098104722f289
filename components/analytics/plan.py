"""What a consortium wants analysed: the section ``analysis`` of a study file, as frozen, strict records.

It names columns, their units and allowed ranges, so that every site's table is checked against the same words, and
methods from a closed table.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.later import LaterFields
from components.round_rules import Quorum
from components.rounds import Name
from components.section import Positive, Section, Whole
from components.study import Sites, VirtualSites

Method = Literal[
    "summary", "kaplan_meier", "logrank", "rmst", "cox", "competing_risks", "meta_analysis", "power"
]  # fmt: skip
METHODS: tuple[Method, ...] = (
    "summary", "kaplan_meier", "logrank", "rmst", "cox", "competing_risks", "meta_analysis", "power",
)  # fmt: skip
Level = Annotated[str, Field(min_length=1)]
CUT = "patients.csv"  # the file of a virtual site
ARM = "arm"  # what the arm is called among the covariates of a regression


class TableSource(Section):
    """Where the rows are: one row per patient.

    Attributes:
        source: ``folder`` (a file in each site's folder), or a table that lifelines brings, cut into virtual sites:
            ``GBSG2`` (German Breast Cancer Study Group 2) or ``lung`` (NCCTG lung cancer).
        file: For ``folder``: name of the file in a site's folder, CSV (UTF-8, a line of names first) or Parquet.
    """

    source: Literal["folder", "GBSG2", "lung"] = "folder"
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*\.(csv|parquet)$")] = "patients.csv"

    @property
    def name(self) -> str:
        """Name of the file in a site's folder, also where that is cut from another table."""
        return self.file if self.source == "folder" else CUT


class Time(Section):
    """The time to the event or to the end of observation, and the grid on which all sites count it.

    Attributes:
        column: Name of the column.
        unit: Its unit.
        step: Width of the grid, in that unit. Times that are multiples of it are kept exactly; others are rounded up
            to the next, which the result says.
        end: End of the grid, in that unit. Who is observed longer counts as censored there.
    """

    column: Level
    unit: Literal["days", "weeks", "months", "years"]
    step: Annotated[float, Field(gt=0)] = 1.0
    end: Annotated[float, Field(gt=0)]

    @property
    def cells(self) -> int:
        """Number of the grid's last cell; cell 0 is time 0."""
        return round(self.end / self.step)

    @model_validator(mode="after")
    def _check(self) -> Time:
        if not 1 <= self.cells <= 100_000 or abs(self.cells * self.step - self.end) > 1e-9 * self.end:
            raise ValueError(f"end must be 1 to 100000 whole steps of {self.step:g}, given {self.end:g}")
        return self


class Event(Section):
    """Whether the event was observed.

    Attributes:
        column: Name of the column: 0 is censored, 1 the first cause, 2 the second ...
        causes: Names of the causes, in the order of their numbers; the first is the event of interest.
    """

    column: Level
    causes: Annotated[list[Level], Field(min_length=1, max_length=8)] = Field(default_factory=lambda: ["event"])


class Arm(Section):
    """What patients were given.

    Attributes:
        column: Name of the column.
        levels: Its values; the first is the reference.
    """

    column: Level
    levels: Annotated[list[Level], Field(min_length=2, max_length=8)]


class Covariate(Section):
    """A column that describes a patient.

    Attributes:
        name: Name of the column.
        kind: ``number`` or ``category``.
        unit: Of a number; for people.
        range: Of a number: lowest and highest value that can be true. A value outside is a mistake of the table (a
            wrong unit, mostly), and the site says so.
        bins: Of a number: resolution of its quantiles.
        levels: Of a category: its values; the first is the reference.
    """

    name: Level
    kind: Literal["number", "category"] = "number"
    unit: str = ""
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    bins: Annotated[int, Field(ge=2, le=10_000)] = 100
    levels: Annotated[list[Level], Field(min_length=2, max_length=100)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Covariate:
        if (self.kind == "number") != (self.range is not None):
            raise ValueError(f"range (lowest, highest) goes with kind: number, and only with it, at {self.name}")
        if (self.kind == "category") != (self.levels is not None):
            raise ValueError(f"levels goes with kind: category, and only with it, at {self.name}")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must be lowest < highest, given {self.range}")
        return self


class Condition(Section):
    """Who belongs to the cohort, by one column; several conditions must all hold.

    Attributes:
        column: A covariate, or the arm's column.
        among: Values of a category.
        at_least: Lowest value of a number.
        below: Value that a number stays below.
    """

    column: Level
    among: Annotated[list[Level], Field(min_length=1)] | None = None
    at_least: float | None = None
    below: float | None = None


class Cox(Section):
    """The proportional hazards regression.

    Attributes:
        covariates: Names, of which ``arm`` is the arm; empty takes the arm and all covariates.
        ties: How events at one time are treated: ``efron`` or ``breslow``.
        stratify: ``site`` (a baseline hazard for each site; only scores and information matrices leave it) or
            ``none`` (one for all; sums over risk sets leave it, see `Disclosure.risk_sets`).
        transform: Of time, for the check of proportionality: ``identity`` or ``log``.
    """

    covariates: list[Level] = Field(default_factory=list)
    ties: Literal["efron", "breslow"] = "efron"
    stratify: Literal["site", "none"] = "site"
    transform: Literal["identity", "log"] = "identity"


class Power(Section):
    """The trial that is planned after this one, by Schoenfeld's formula.

    Attributes:
        hazard_ratio: To be detected.
        alpha: Two-sided error of the first kind.
        power: Wanted.
        allocation: Part of the patients who are given what is new.
        event_share: Part of the patients who will have the event; None takes the pooled share of this analysis.
    """

    hazard_ratio: Annotated[float, Field(gt=0)] = 0.7
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    allocation: Annotated[float, Field(gt=0, lt=1)] = 0.5
    event_share: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Power:
        if self.hazard_ratio == 1:
            raise ValueError("hazard_ratio must not be 1: no number of patients shows that")
        return self


class Disclosure(Section):
    """What may leave a site; a site's own policy may be stricter, never milder.

    Attributes:
        smallest_cell: Least number of patients behind any number that leaves; 1 switches all control off.
        rounding: Counts leave as multiples of this; 1 leaves them as they are.
        queries: Different questions that a site answers about one cohort, over all studies, for good.
        risk_sets: Whether a regression with one baseline hazard for all sites may be asked for: ``refuse``, or
            ``grouped`` (over groups of patients, which makes it an approximation).
    """

    smallest_cell: Positive = 5
    rounding: Positive = 1
    queries: Positive = 200
    risk_sets: Literal["refuse", "grouped"] = "refuse"

    @property
    def controlled(self) -> bool:
        """Whether anything is held back."""
        return self.smallest_cell > 1

    def stricter(self, other: Disclosure) -> Disclosure:
        """Return what both allow."""
        grouped = self.risk_sets == other.risk_sets == "grouped"
        return Disclosure(
            smallest_cell=max(self.smallest_cell, other.smallest_cell),
            rounding=max(self.rounding, other.rounding),
            queries=min(self.queries, other.queries),
            risk_sets="grouped" if grouped else "refuse",
        )


class Analysis(Section):
    """What is analysed; see the attributes' own records.

    Attributes:
        horizon: For the restricted mean survival time: up to when, in the unit of time; None is the grid's end.
        methods: Which methods, of the closed table; the default is all.
    """

    table: TableSource = TableSource()
    time: Time
    event: Event
    arm: Arm
    covariates: list[Covariate] = Field(default_factory=list)
    cohort: list[Condition] = Field(default_factory=list)
    methods: Annotated[list[Method], Field(min_length=1)] = Field(default_factory=lambda: list(METHODS))
    cox: Cox = Cox()
    horizon: Annotated[float, Field(gt=0)] | None = None
    power: Power = Power()
    disclosure: Disclosure = Disclosure()

    def covariate(self, name: str) -> Covariate:
        """Return a covariate by its name; the arm is a category."""
        if name in (ARM, self.arm.column):
            return Covariate(name=self.arm.column, kind="category", levels=self.arm.levels)
        return next(item for item in self.covariates if item.name == name)

    @property
    def regressors(self) -> list[str]:
        """Names of what the regression looks at."""
        return self.cox.covariates or [ARM, *(item.name for item in self.covariates)]

    @model_validator(mode="after")
    def _check(self) -> Analysis:
        columns = [self.time.column, self.event.column, self.arm.column, *(item.name for item in self.covariates)]
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise ValueError(f"covariates: columns must differ from each other, given twice: {', '.join(twice)}")
        known = [self.arm.column, *(item.name for item in self.covariates)]
        for number, condition in enumerate(self.cohort):
            if condition.column not in known:
                raise ValueError(f"cohort[{number}].column: {condition.column} is none of {', '.join(known)}")
            _check_condition(f"cohort[{number}]", condition, self.covariate(condition.column))
        for name in self.cox.covariates:
            if name != ARM and name not in known[1:]:
                raise ValueError(f"cox.covariates: {name} is none of {', '.join([ARM, *known[1:]])}")
        if self.horizon is not None and self.horizon > self.time.end:
            raise ValueError(f"horizon must be at most time.end, {self.time.end:g}, given {self.horizon:g}")
        return self


def _check_condition(place: str, condition: Condition, covariate: Covariate) -> None:
    """Refuse a condition that its column cannot meet."""
    if covariate.kind == "category":
        unknown = sorted(set(condition.among or []) - set(covariate.levels or []))
        if condition.among is None or unknown or condition.at_least is not None or condition.below is not None:
            raise ValueError(f"{place}: a category needs 'among', some of {', '.join(covariate.levels or [])}")
    elif condition.among is not None or (condition.at_least is None and condition.below is None):
        raise ValueError(f"{place}: a number needs 'at_least', 'below' or both")


class Attendance(Section):
    """Which of the sites an analysis needs: by default all, and one that is away is waited for.

    A site is left out of the whole analysis, never of a part of it: what was begun with it is made again without it,
    and the report names it.

    Attributes:
        quorum: How many sites must answer: a whole number is that many, a number with a decimal point that part of
            those that were asked, rounded up.
        required: Sites that must be among them.
        deadline_s: How long a site is waited for at each question, in seconds, where the others are enough.
    """

    quorum: Quorum = 1.0
    required: list[Name] = Field(default_factory=list)
    deadline_s: Annotated[float, Field(gt=0)] = 600.0

    def suffices(self, asked: int, left: set[str]) -> bool:
        """Return whether an analysis of so many sites goes on without some of them.

        >>> Attendance(quorum=0.5).suffices(4, {"a", "b"}), Attendance(quorum=3).suffices(4, {"a", "b"})
        (True, False)
        """
        needed = self.quorum if isinstance(self.quorum, int) else math.ceil(self.quorum * asked - 1e-9)
        return asked - len(left) >= max(needed, 1) and not left & set(self.required)


class AnalysisStudy(Whole, LaterFields):
    """A whole study file that analyses instead of training.

    Attributes:
        attendance: Which sites it needs at the hospitals of a federation.
    """

    later = frozenset({"attendance"})

    study: Name
    description: str = ""
    sites: Sites
    analysis: Analysis
    attendance: Attendance = Attendance()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1

    @model_validator(mode="after")
    def _check(self) -> AnalysisStudy:
        virtual, source = isinstance(self.sites, VirtualSites), self.analysis.table.source
        if virtual != (source != "folder"):
            what = "'sites' as a list of {name, path}" if source == "folder" else "'sites' as {count, partition}"
            raise ValueError(f"sites: analysis.table.source {source} needs {what}")
        if not isinstance(self.sites, VirtualSites):
            names = [site.name for site in self.sites]
            if len(set(names)) != len(names):
                raise ValueError(f"sites: names must differ from each other, given {names}")
        return self
