"""The features of a tabular study: what each column of a hospital's table must be, and what becomes of it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.history import Code, Dated, Days, Given, History, code_mistake, codes_mistake, rising
from components.later import LaterFields
from components.section import Positive, Section
from components.wide import Wide

FEATURE_PATTERN = r"[A-Za-z][A-Za-z0-9_]{0,62}"
MOST_AGREED = 50  # categories of a feature that its hospitals agree on
AGREED_LETTERS = 60  # of the longest that is told
REST = "other"
FeatureName = Annotated[
    str,
    Field(
        pattern=f"^{FEATURE_PATTERN}$",
        description="a name of letters, digits and '_' that starts with a letter, at most 63",
    ),
]

Categories = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=AGREED_LETTERS)]], Field(max_length=MOST_AGREED)
]


def _text(value: Any) -> Any:
    """Take a number for its text: a code such as 1 may stand in a file without quotes."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int | float)]


class Feature(Section, LaterFields):
    """One feature: a column of every hospital's table.

    Attributes:
        name: What the model calls it, and the column's name unless `column` says otherwise.
        type: ``numeric``; ``categorical`` (one of `categories`); or ``boolean`` (0 and 1, no and yes, false and true).
        column: Name of the column; empty is the feature's own name.
        unit: Unit of a number, for example ``mg/dl``. A hospital whose own feature file says another takes no part.
        code: What it is in a terminology, for example ``LOINC 2093-3``; part of the agreement, like the unit.
        range: For ``numeric``: lowest and highest value that can be, in `unit`. A row beyond it is set aside. Sums are
            taken about its middle.
        categories: For ``categorical``: the values, at least two; the first is the reference that the others are
            compared with. A row with another value is set aside.
        missing: Values that mean that there is none, such as ``?``, or 0 where a zero cannot be; an empty cell always
            does.
        indicator: Whether the model is told, as an input of its own, that the value was missing.
        most_missing: Largest part of a site's rows that may lack it; a site that lacks more takes no part.
        most_outside: Largest part of a site's values that may be out of range or of no category.
        record: For patients' dated records: what it is made of. ``age`` (completed years at the index date), ``sex``
            (categories ``male``, ``female``, ``other``), or records of a kind that have `code`.
        also: Further codes that mean the same, for example ``OMOP 3027114`` beside ``LOINC 2093-3``. A code that ends
            with ``*`` stands for all that begin so.
        window_days: First and last day, counted from the index date, on which a record counts: ``[-365, 0]``. Left out,
            all up to the index date do.
        take: What is made of several: ``last`` or ``first`` value, ``mean``, ``min`` or ``max`` of the values,
            ``count`` of the records, ``any`` (whether there is one).
        convert: Other units (UCUM) that are taken, and what a value in them is multiplied by to be in `unit`. A value
            in any other unit is not used.
        meanings: Codes that stand for a category, or for ``no`` and ``yes``, by category.
        agreed: For ``categorical``, in place of `categories`: the values that the hospitals have. Each tells those that
            `smallest_cell` of its patients or more share; their union is encoded, and any other value is ``other``.
        rest: Of `categories`, the one that a value stands under which is none of them; empty sets its row aside.
    """

    later = frozenset({"record", "also", "window_days", "take", "convert", "meanings", "agreed", "rest"})

    name: FeatureName
    type: Literal["numeric", "categorical", "boolean"] = "numeric"
    column: str = ""
    unit: str = ""
    code: str = ""
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    categories: list[Text] = Field(default_factory=list)
    missing: list[Text] = Field(default_factory=list)
    indicator: bool = False
    most_missing: Annotated[float, Field(ge=0, le=1)] = 1.0
    most_outside: Annotated[float, Field(ge=0, le=1)] = 0.05
    record: Literal["", "age", "sex"] | Dated = ""
    also: list[Code] = Field(default_factory=list)
    window_days: Days | None = None
    take: Literal["last", "first", "mean", "min", "max", "count", "any"] = "last"
    convert: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    meanings: dict[str, list[Code]] = Field(default_factory=dict)
    agreed: bool = False
    rest: Text = ""

    @model_validator(mode="after")
    def _check(self) -> Feature:
        if self.range is not None and (self.type != "numeric" or not self.range[0] < self.range[1]):
            raise ValueError(f"range (lowest < highest) belongs to a numeric feature, given {self.range}")
        if (self.type == "categorical") != (bool(self.categories) or self.agreed):
            raise ValueError("categories go with type: categorical, and only with it")
        if self.agreed and (self.categories or self.record):
            raise ValueError("agreed stands in place of categories, and for a table's column only")
        if self.rest and self.rest not in self.categories:
            raise ValueError(f"rest must be one of the categories, given {self.rest}")
        if self.categories and (len(self.categories) < 2 or len(set(self.categories)) < len(self.categories)):
            raise ValueError(f"categories must be two or more and differ from each other, given {self.categories}")
        wrong = self._dated_mistake()
        if wrong:
            raise ValueError(wrong)
        return self

    def _dated_mistake(self) -> str:
        """Say what is wrong with what it is made of; nothing if it is right."""
        if self.record in ("", "age", "sex"):
            dated = self.later - {"record", "agreed", "rest"}
            given = sorted(word for word in dated if getattr(self, word) != _default(word))
            if given:
                return f"{given[0]} belongs to records with a code: give record: measurement, condition, ..."
            kind = {"age": "numeric", "sex": "categorical"}.get(self.record, self.type)
            return "" if self.type == kind else f"type must be {kind} with record: {self.record}"
        own, all_codes = code_mistake(self.code), codes_mistake(self.codes)
        if own or all_codes:
            return f"code {own}" if own else f"also {all_codes}"
        if not rising(self.window_days):
            return f"window_days must be first and last day, given {self.window_days}"
        if self.type != ("numeric" if self.take == "count" else "boolean") and self.take in ("count", "any"):
            return f"take {self.take} makes {'a number' if self.take == 'count' else 'yes or no'}, not {self.type}"
        return "" if self.take in ("count", "any") else self._value_mistake()

    def _value_mistake(self) -> str:
        """Say what is wrong with the value that is taken; nothing if it is right."""
        if self.record != "measurement":
            return f"take must be any or count with record: {self.record}, which has no value"
        if self.type != "numeric" and self.take not in ("first", "last"):
            return f"take {self.take} belongs to numbers; must be first or last for {self.type}"
        if self.type == "numeric" and not self.unit:
            return "unit is missing: the unit of a measurement (UCUM); 1 for a number without one"
        return ""

    @property
    def codes(self) -> list[str]:
        """All codes that its records may have."""
        return [self.code, *self.also]

    @property
    def column_name(self) -> str:
        """Name of its column."""
        return self.column or self.name

    @property
    def values(self) -> int:
        """Number of values it can have: those of a category, 2 of a boolean, 0 of a number."""
        return {"numeric": 0, "boolean": 2}.get(self.type, len(self.categories))

    @property
    def centre(self) -> float:
        """What its sums are taken about: a number that everybody knows, so that squares do not cancel."""
        return (self.range[0] + self.range[1]) / 2 if self.range else 0.0


def _default(field: str) -> object:
    """Return the default of a field of a feature."""
    return Feature.model_fields[field].get_default(call_default_factory=True)


class Arm(Section, LaterFields):
    """The column that says which of two treatments a patient was given.

    Attributes:
        column: Name of the column.
        levels: Its two values; the second is the treatment whose benefit over the first is asked for. A row with
            another value, or none, is set aside.
        randomised: Whether chance alone decided who was given which. If not, benefits are weighted by the fitted
            probability of the arm, and every result says what that cannot correct.
        propensity: Probability of the second level, where it is known by design; null fits it in the training: one
            number for all patients where they were randomised, else a logistic regression on all features.
        given: For patients' dated records: which of them say it.
    """

    later = frozenset({"given"})

    column: Annotated[str, Field(min_length=1)]
    levels: Annotated[list[Text], Field(min_length=2, max_length=2)]
    randomised: bool
    propensity: Annotated[float, Field(gt=0, lt=1)] | None = None
    given: Given | None = None

    @model_validator(mode="after")
    def _check(self) -> Arm:
        if self.levels[0] == self.levels[1]:
            raise ValueError(f"levels must differ from each other, given {self.levels}")
        if self.propensity is not None and not self.randomised:
            raise ValueError("propensity is known by design only where chance decided: leave it out, it is fitted")
        if self.given is not None and self.given.codes.keys() not in ({*self.levels}, {self.levels[1]}):
            raise ValueError(
                f"given.codes must name {self.levels[1]}, or both of levels, given {', '.join(self.given.codes)}"
            )
        return self

    @property
    def feature(self) -> Feature:
        """The column as a feature, which is what its cells are checked by; the model never sees it as one."""
        return Feature(name="arm", type="categorical", column=self.column, categories=self.levels)


class Treatment(Section):
    """Which of two treatments each patient is better off with: a recommendation for each, with its interval.

    Attributes:
        better: The class that is wanted for a patient; empty is the first, as in ``[well, ill]``.
        learner: ``t``: a model of the outcome for each arm (T-learner); ``x``: besides these, models of the effect,
            fitted to what each patient's outcome was less what the other arm's model expects (X-learner; of survival
            to those whose time until the last horizon is known, weighted for who was censored); ``single``: one model
            with the arm among its inputs, as in DeepSurv's recommender.
        members: Models fitted to resampled patients beside the model itself; their spread is the interval of a
            patient's benefit.
    """

    better: str = ""
    learner: Literal["t", "x", "single"] = "t"
    members: Annotated[int, Field(ge=10, le=200)] = 30


class Records(Section, LaterFields):
    """The table of a tabular study: one row for each patient or encounter.

    Attributes:
        features: What the model sees, in order; or the name of a YAML file, beside the study, with the list.
        header: Names of the columns of a CSV without a first line of names, in their order; empty where there is one.
        separator: Between the cells of a CSV.
        missing: Values that mean that there is none, in any column.
        labels: For each class of the task, the values of the label's column that stand for it; empty where they are
            the classes' own names or numbers.
        scaling: ``standard``: numbers less their mean, divided by their standard deviation, both of the training rows
            of all sites together; ``none``. What is missing becomes the mean, or the most frequent value, of those.
        smallest_cell: A site tells no sum over fewer rows than this, and no count that a reader could tell from it.
        format: What a site's folder holds: ``table``; ``fhir`` (R4: bundles, NDJSON); ``omop`` (tables of the CDM 5.4);
            ``any`` (whichever of these is there, so that hospitals may differ).
        history: How a row is made of a patient's dated records; not for ``table``.
        wide: Thousands of further columns, of which some are kept, or principal components of them.
        arm: For ``task.treatment``: which treatment each patient was given.
    """

    later = frozenset({"arm", "format", "history", "wide"})

    features: Annotated[list[Feature], Field(min_length=1, max_length=4096)]
    header: list[str] = Field(default_factory=list)
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    missing: list[Text] = Field(default_factory=list)
    labels: dict[str, list[Text]] = Field(default_factory=dict)
    scaling: Literal["standard", "none"] = "standard"
    smallest_cell: Positive = 5
    format: Literal["table", "fhir", "omop", "any"] = "table"
    history: History | None = None
    wide: Wide | None = None
    arm: Arm | None = None

    @model_validator(mode="after")
    def _check(self) -> Records:
        for words, names in (
            ("features", [feature.name for feature in self.features]),
            ("header", self.header),
            ("labels", [value for values in self.labels.values() for value in values]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{words} must differ from each other, twice there: {', '.join(twice)}")
        absent = [feature.column_name for feature in self.features if feature.column_name not in self.header]
        if self.wide is not None:
            absent += [name for name in self.wide.columns if name not in set(self.header)]
            both = sorted({feature.column_name for feature in self.features} & set(self.wide.columns))
            if both:
                raise ValueError(f"wide.columns and features must differ, in both there: {', '.join(both[:5])}")
        if self.header and absent:
            raise ValueError(f"features: no column {', '.join(absent)} in the header")
        if (self.format == "table") != (self.history is None):
            raise ValueError("history goes with format: fhir, omop or any, and only with them")
        if self.history is not None:
            _check_dated(self.features, self.history, self.arm)
        if self.arm is not None:
            self._check_arm(self.arm)
        return self

    @property
    def all_features(self) -> list[Feature]:
        """All columns of the table that are read, in the order of the network's input: the features, then `wide`."""
        wide = self.wide
        if wide is None:
            return self.features
        one = Feature(name="wide", unit=wide.unit, range=wide.range, most_outside=wide.most_outside)
        # A column may have any name: what a feature's may be is not asked of it.
        return [*self.features, *(one.model_copy(update={"name": name, "column": name}) for name in wide.columns)]

    def _check_arm(self, arm: Arm) -> None:
        """Refuse an arm beside what it does not go with."""
        if arm.column in [feature.column_name for feature in self.features]:
            raise ValueError(f"arm: its column {arm.column} is a feature too; the model must not see it as one")
        if self.wide is not None:
            raise ValueError("arm: does not go with wide, whose columns are screened by the outcome alone")
        if (arm.given is None) != (self.format == "table"):
            raise ValueError("arm: given (by which records) goes with format: fhir, omop or any, and only with them")
        if "arm" in [feature.name for feature in self.features]:
            raise ValueError("features: the name arm is that of records.arm here; call the feature something else")

    @property
    def encoded(self) -> list[Feature]:
        """The columns of an encoded row: all features, and the arm as the last."""
        return [*self.all_features, *([self.arm.feature] if self.arm else [])]

    def missing_of(self, feature: Feature) -> list[str]:
        """Return the values that mean that a feature has none."""
        return [*self.missing, *feature.missing]


def _check_dated(features: list[Feature], history: History, arm: Arm | None) -> None:
    """Refuse features, and an arm, that cannot be made of dated records or that know what is to be foreseen."""
    bare = [feature.name for feature in features if not feature.record]
    if bare:
        raise ValueError(f"features: record is missing for {', '.join(bare)}: what are they made of?")
    begin = history.label.window_days[0]
    late = [feature.name for feature in features if (feature.window_days or [0, 0])[1] >= begin]
    dated = [feature.name for feature in features if feature.name in late and feature.record not in ("age", "sex")]
    given = None if arm is None else arm.given
    dated += ["the arm"] if given is not None and given.window_days[1] >= begin else []
    if dated:
        raise ValueError(
            f"history: the label's window begins on day {begin}, and that of {', '.join(dated)} ends on it or later: a "
            "feature must be known before"
        )
    if begin < 0:
        raise ValueError(f"history: the label's window begins on day {begin}, before the index date")
    seen = [feature.name for feature in features if given is not None and _shows(feature, given)]
    if seen:
        raise ValueError(f"arm: {', '.join(seen)} has a code and days of it; the model must not see it as a feature")


def _shows(feature: Feature, given: Given) -> bool:
    """Whether a feature is made of the records that say what a patient was given."""
    first, last = feature.window_days or (-math.inf, 0)
    codes = {code for codes in given.codes.values() for code in codes}
    shared = feature.record == given.record and not codes.isdisjoint(feature.codes)
    return shared and first <= given.window_days[1] and given.window_days[0] <= last


class Subgroup(Section):
    """Patients of one kind, for whom the model is judged on their own.

    Attributes:
        feature: Name of the feature that tells them apart.
        edges: For a numeric feature: where one band ends and the next begins, rising; ``[50, 65]`` makes three.
    """

    feature: FeatureName
    edges: list[float] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> Subgroup:
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError(f"edges must rise, given {self.edges}")
        return self

    def names(self, feature: Feature) -> list[str]:
        """Return what its groups are called, in order.

        >>> Subgroup(feature="age", edges=[50, 65]).names(Feature(name="age"))
        ['age below 50', 'age 50 to 65', 'age 65 and above']
        """
        if feature.type == "boolean":
            return [f"{feature.name} no", f"{feature.name} yes"]
        if feature.type == "categorical":
            return [f"{feature.name} {category}" for category in feature.categories]
        words = [f"{edge:g}" for edge in self.edges]
        between = [f"{low} to {high}" for low, high in pairwise(words)]
        return [f"{feature.name} {band}" for band in (f"below {words[0]}", *between, f"{words[-1]} and above")]
