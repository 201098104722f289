"""Wide columns that a study names by a pattern: which it meets at a site, and whether all sites have the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ValidationError

from components.data.records import find_table, read_header
from components.errors import DataError, StudyError
from components.mistakes import first_mistake
from components.site_source import SiteSource
from components.study import Study
from components.wide import MOST_COLUMNS

SHOWN = 5  # names in a message
FIELD = "data.records.wide.pattern"


def has_pattern(study: Study) -> bool:
    """Return whether a study's columns are not known before its sites have said what its pattern meets."""
    wide = study.data.records.wide if study.data.records is not None else None
    return wide is not None and bool(wide.pattern)


def met_columns(study: Study, source: SiteSource) -> list[str]:
    """Return the columns of a site's table that the study's pattern meets, in the order of their names.

    Neither the table's rows nor any other of its names are read or told; a feature, the outcome or the patient's column
    is none of them.

    Raises:
        DataError: If the table is not there or cannot be read, or none or too many are met.
    """
    records, owner = study.data.records, f"site {source.name}"
    assert records is not None  # the caller's check
    assert records.wide is not None
    pattern = records.wide.pattern
    others = {*(feature.column_name for feature in records.features), *study.data.columns.values()}
    found: set[str] = set()
    for path in {part.path for part in source.parts}:
        header = read_header(find_table(Path(path), study.data, owner), records, owner)
        found |= {name for name in header if name not in others and fnmatchcase(name, pattern)}
    if not 2 <= len(found) <= MOST_COLUMNS:
        raise DataError(
            f"{owner}: data.records.wide.pattern {pattern} meets {len(found)} columns of its table; there must be 2 at "
            f"least and {MOST_COLUMNS:,} at most"
        )
    return sorted(found)


def with_columns(study: Study, found: Mapping[str, Sequence[str]]) -> Study:
    """Return a study with the columns that its pattern meets, as if they had been written in its file.

    Args:
        study: The study.
        found: By site, what its pattern meets there.

    Raises:
        DataError: If it is not the same at all sites, naming each that lacks some, and which.
        StudyError: If the study asks for more of them than there are.
    """
    every = sorted(set[str]().union(*found.values()))
    lacking = {site: sorted(set(every) - set(names)) for site, names in sorted(found.items())}
    said = [f"{site} lacks {_listed(names)}" for site, names in lacking.items() if names]
    plain = study.model_dump(mode="json")
    pattern = plain["data"]["records"]["wide"].pop("pattern")
    if said:
        raise DataError(
            f"data.records.wide.pattern {pattern} does not meet the same columns at all sites: {'; '.join(said)}. Mend "
            "the tables, or name the columns that all have in a file: data.records.wide.columns"
        )
    plain["data"]["records"]["wide"]["columns"] = every
    try:
        return Study.model_validate(plain)
    except ValidationError as error:
        raise StudyError(f"data.records.wide.pattern {pattern}: {first_mistake(error)}", FIELD) from None


def _listed(names: Sequence[str]) -> str:
    """Name a few columns, and count the rest."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
