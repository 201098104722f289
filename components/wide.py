"""Thousands of numeric columns of one kind beside a table's features, and which of them a training sees."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated

from pydantic import Field, model_validator

from components.later import LaterFields
from components.section import Positive, Section

MOST_COLUMNS = 50_000
# A hospital tells the names that a pattern meets: one that begins so meets no name of a patient.
PATTERN = re.compile(r"[A-Za-z0-9_.-]{3,}[*?\[].*")


class Wide(Section, LaterFields):
    """Thousands of numeric columns of one kind, such as expression of genes, of which a training sees a few numbers.

    Attributes:
        columns: Names of the columns; or the name of a text file, beside the study, with one in each line.
        pattern: In their place: what the names look like, ``gene_*`` for example, with ``*`` for any letters, ``?`` for
            one and ``[0-9]`` for one of several. What it meets has to be the same at every site.
        keep: How many take part: those with the largest score statistics over all sites; see `components.screening`.
            Left out with `components`, all do.
        components: Not the columns that take part but so many principal components of them are what the model sees;
            see `components.principal`.
        unit: Unit of all of them, for example ``log2 counts``.
        range: Lowest and highest value that can be, in `unit`.
        most_outside: Largest part of a column's values at a site that may be out of range.
    """

    later = frozenset({"components", "pattern"})

    columns: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MOST_COLUMNS)] = Field(
        default_factory=list
    )
    pattern: str = ""
    keep: Positive | None = None
    components: Positive | None = None
    unit: str = ""
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    most_outside: Annotated[float, Field(ge=0, le=1)] = 0.05

    @model_validator(mode="after")
    def _check(self) -> Wide:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must be lowest < highest, given {self.range}")
        if len(set(self.columns)) < len(self.columns):
            twice = sorted(name for name, times in Counter(self.columns).items() if times > 1)
            raise ValueError(f"columns must differ from each other, twice there: {', '.join(twice[:5])}")
        if self.keep is None and self.components is None:
            raise ValueError("keep or components is missing: how many columns, or principal components, take part?")
        self._check_columns()
        if self.components is not None and self.components > (self.kept or self.components):
            raise ValueError(
                f"components must be at most the number of columns that take part, {self.kept}, given {self.components}"
            )
        return self

    def _check_columns(self) -> None:
        """Refuse names that are not there, or there in two ways."""
        if bool(self.columns) == bool(self.pattern):
            raise ValueError("columns (names, or a file with them) or pattern has to be given, and not both")
        if self.pattern and not PATTERN.fullmatch(self.pattern):
            raise ValueError(
                f"pattern must begin with three letters or digits at least, and have a * then, given {self.pattern!r}"
            )
        if self.columns and len(self.columns) < 2:
            raise ValueError("columns must be two at least; one is a feature")
        if self.columns and self.keep is not None and self.keep > len(self.columns):
            raise ValueError(f"keep must be at most the number of columns, {len(self.columns)}, given {self.keep}")

    @property
    def kept(self) -> int:
        """How many columns take part; 0 where that is all of a pattern's, which no site has told yet."""
        return self.keep or len(self.columns)

    @property
    def inputs(self) -> int:
        """How many numbers the model sees of them."""
        return self.components or self.kept
