"""What a study leaves to its sites' tables, agreed before anything is trained: a pattern's columns, and categories.

Of a categorical feature with ``agreed: true`` each site tells the values that so many of its patients have that no
number would be too small; their union is what all sites encode by. A value that nobody told is `REST` everywhere, so a
rare one leaves no site, not even as a name. The study that comes of it is the one that names them in its file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.data.encoding import is_missing, plain
from components.data.opening import rows_of_part
from components.data.patterns import has_pattern, met_columns, with_columns
from components.data.records import read_table
from components.errors import DataError
from components.features import AGREED_LETTERS, MOST_AGREED, REST, Feature
from components.site_source import SiteSource
from components.study import Study


@dataclass(frozen=True)
class Found:
    """What a site's table says of what a study leaves to it.

    Attributes:
        columns: Those that its pattern meets.
        categories: By feature, the values of enough patients, in their order.
    """

    columns: Sequence[str] = ()
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)


def is_open(study: Study) -> bool:
    """Return whether sites have to say something before the study is whole."""
    return has_pattern(study) or bool(_agreed(study))


def found_at(study: Study, source: SiteSource) -> Found:
    """Return what a site's table says of what an open study leaves to it.

    Raises:
        DataError: If the table is not there, cannot be read, or has too many values of a feature.
    """
    columns = met_columns(study, source) if has_pattern(study) else []
    return Found(columns, categories_at(study, source) if _agreed(study) else {})


def settled(study: Study, found: Mapping[str, Found]) -> Study:
    """Return a study in which all is said, as if it had been written in its file.

    Args:
        study: The study.
        found: By site, what its table says.

    Raises:
        DataError: If the sites' columns differ, or too few or too many values were told of a feature.
        StudyError: If the study asks for more columns than there are.
    """
    if _agreed(study):
        study = with_categories(study, {site: item.categories for site, item in found.items()})
    return with_columns(study, {site: item.columns for site, item in found.items()}) if has_pattern(study) else study


def categories_at(study: Study, source: SiteSource) -> dict[str, list[str]]:
    """Return the values of each agreed feature that at least `smallest_cell` patients of a site have.

    Raises:
        DataError: If the table cannot be read, or has more than `MOST_AGREED` such values of a feature.
    """
    records, owner = study.data.records, f"site {source.name}"
    assert records is not None  # the caller's check
    patients: dict[str, dict[str, set[str]]] = {feature.name: defaultdict(set) for feature in _agreed(study)}
    for part in source.parts:
        rows = rows_of_part(read_table(Path(part.path), study.data, owner), part)
        for feature in _agreed(study):
            missing = records.missing_of(feature)
            for row in rows:
                text = str(row.extras.get(feature.column_name, "")).strip()
                if not is_missing(text, missing):
                    patients[feature.name][plain(text)].add(row.patient or f"{part.path} {row.name}")
    told = {
        name: sorted(value for value, those in values.items() if len(those) >= records.smallest_cell)
        for name, values in patients.items()
    }
    for name, values in told.items():
        if len(values) > MOST_AGREED:
            raise DataError(
                f"{owner}: {name} has {len(values)} values that {records.smallest_cell} patients or more share; "
                f"{MOST_AGREED} at most are categories. Is it a number, or text?"
            )
    return {name: [value for value in values if len(value) <= AGREED_LETTERS] for name, values in told.items()}


def with_categories(study: Study, found: Mapping[str, Mapping[str, Sequence[str]]]) -> Study:
    """Return a study whose agreed features have the categories that any site told, and `REST` for all others.

    Raises:
        DataError: If no site told any value of a feature, or all of them too many.
    """
    plain_study = study.model_dump(mode="json")
    for item in plain_study["data"]["records"]["features"]:
        if not item.get("agreed"):
            continue
        union = sorted({value for told in found.values() for value in told.get(item["name"], ())} - {REST})
        if not union:
            raise DataError(
                f"no hospital can tell a value of {item['name']}: too few patients have any one of them; list its "
                "categories in the study, or leave it out"
            )
        if len(union) > MOST_AGREED:
            raise DataError(
                f"the hospitals have {len(union)} values of {item['name']} together; {MOST_AGREED} at most are "
                "categories. Do they write it alike?"
            )
        item |= {"agreed": False, "categories": [*union, REST], "rest": REST}
    return Study.model_validate(plain_study)


def _agreed(study: Study) -> list[Feature]:
    records = study.data.records
    return [feature for feature in records.features if feature.agreed] if records is not None else []
