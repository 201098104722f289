"""The features of a tabular study: what each column of a hospital's table must be, and what becomes of it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.section import Positive, Section

FEATURE_PATTERN = r"[A-Za-z][A-Za-z0-9_]{0,62}"
FeatureName = Annotated[
    str,
    Field(
        pattern=f"^{FEATURE_PATTERN}$",
        description="a name of letters, digits and '_' that starts with a letter, at most 63",
    ),
]


def _text(value: Any) -> Any:
    """Take a number for its text: a code such as 1 may stand in a file without quotes."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int | float)]


class Feature(Section):
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
    """

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

    @model_validator(mode="after")
    def _check(self) -> Feature:
        if self.range is not None and (self.type != "numeric" or not self.range[0] < self.range[1]):
            raise ValueError(f"range (lowest < highest) belongs to a numeric feature, given {self.range}")
        if (self.type == "categorical") != bool(self.categories):
            raise ValueError("categories go with type: categorical, and only with it")
        if self.categories and (len(self.categories) < 2 or len(set(self.categories)) < len(self.categories)):
            raise ValueError(f"categories must be two or more and differ from each other, given {self.categories}")
        return self

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


class Records(Section):
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
    """

    features: Annotated[list[Feature], Field(min_length=1, max_length=4096)]
    header: list[str] = Field(default_factory=list)
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    missing: list[Text] = Field(default_factory=list)
    labels: dict[str, list[Text]] = Field(default_factory=dict)
    scaling: Literal["standard", "none"] = "standard"
    smallest_cell: Positive = 5

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
        if self.header and absent:
            raise ValueError(f"features: no column {', '.join(absent)} in the header")
        return self

    def missing_of(self, feature: Feature) -> list[str]:
        """Return the values that mean that a feature has none."""
        return [*self.missing, *feature.missing]


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
