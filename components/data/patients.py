"""A hospital's folder of FHIR or OMOP records: read, checked against the study, and made into a table's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.data.cohort import LEFT_OUT, NO_INDEX, PARTIAL, Cohort, PatientRow, build_cohort
from components.data.fhir import REFERENCED, fhir_files, read_fhir
from components.data.histories import OTHER, SYSTEM, UNIT, Alias, Asked, Entry, Histories, Person, Unread, collect
from components.data.labels import Observation
from components.data.listing import Row
from components.data.omop import find_concepts, omop_files, read_omop
from components.data.quarantine import Quarantined
from components.data.records import SITE_FEATURES, read_table, require_agreement
from components.data.terminology import (
    DEATH,
    INDEX,
    LABEL,
    SITE_CODES,
    OwnCodes,
    Wanted,
    build_wanted,
    plain_unit,
    read_own_codes,
    unit_factors,
    wanted_codes,
)
from components.errors import DataError
from components.features import Feature, Records
from components.history import DAYS, OMOP, UNITS, History, day
from components.study import Data


@dataclass(frozen=True)
class ReadPatients:
    """What a hospital's folder gave.

    Attributes:
        format: ``table``, ``fhir`` or ``omop``.
        rows: A row for each patient who takes part; with its `fault` where it cannot be used.
        remarks: What was left out or not used, in counts; it stays at the hospital.
        patients: Patients that were found.
        found: Records with a code of each feature, the index and the label.
    """

    format: str
    rows: list[Row]
    remarks: list[Quarantined] = field(default_factory=list)
    patients: int = 0
    found: Mapping[str, int] = field(default_factory=dict)


def read_patients(path: Path, data: Data, owner: str, *, unit: str = "days") -> ReadPatients:
    """Read what a site's folder holds, as ``data.records.format`` says.

    Args:
        path: The folder; of a table the file, too.
        data: The study's data section.
        owner: Whose it is, for messages: ``site north``.
        unit: For survival: the task's unit of time.

    Raises:
        DataError: If it is not there, cannot be read, or its codes and units are not the study's. Every feature that is
            not is named; no value, date, identifier or file is.
    """
    assert data.records is not None  # the study's own check
    kind = _format(path, data, owner)
    if kind == "table":
        rows = read_table(path, data, owner)
        return ReadPatients(kind, rows, patients=len(rows))
    if not path.is_dir():
        raise DataError(f"{owner}: its folder of records is not there; make it, or correct the path under sites")
    require_agreement(path / SITE_FEATURES, data.records, owner)
    own = read_own_codes(path, owner)
    asked, items = _ask(kind, path, data.records, own, owner)
    kept = collect(items, asked)
    _require_patients(kept, kind, owner)
    _require_codes(kept, asked, data.records, owner)
    cohort = build_cohort(kept, data.records, sorted(asked.wanted.absent))
    if not cohort.rows:
        raise DataError(
            f"{owner}: none of its {len(kept.persons)} patients is in the study: {_counts(cohort.left_out)}"
        )
    return ReadPatients(
        kind,
        [_row(row, data, unit) for row in cohort.rows],
        _remarks(kept, cohort),
        len(kept.persons),
        {name: kept.found[name] for name, _, _ in wanted_codes(data.records)},
    )


def _format(path: Path, data: Data, owner: str) -> str:
    """Return what the folder holds."""
    assert data.records is not None
    if data.records.format != "any":
        return data.records.format
    if path.is_file() or (path / data.table).is_file():
        return "table"
    if not path.is_dir():
        raise DataError(f"{owner}: its folder is not there; make it, or correct the path under sites in the study")
    if omop_files(path, "person"):
        return "omop"
    if fhir_files(path):
        return "fhir"
    raise DataError(
        f"{owner}: its folder has no records: neither {data.table}, nor tables of OMOP (person, ...), nor FHIR (JSON, "
        "NDJSON)"
    )


def _ask(
    kind: str, path: Path, records: Records, own: OwnCodes, owner: str
) -> tuple[Asked, Iterable[Person | Alias | Unread | Entry]]:
    """Say what is asked of the folder, and begin to read it."""
    more = {}
    if kind == "omop":
        codes = {code for _, _, found in wanted_codes(records) for code in found}
        more = find_concepts(path, records, owner, codes)
    wanted = build_wanted(records, own, more)
    assert records.history is not None
    features = {feature.name: feature for feature in records.features}
    asked = Asked(
        wanted=wanted,
        features=features,
        factors={name: unit_factors(feature, own, more) for name, feature in features.items()},
        until=day(records.history.until),
        missing={name: records.missing_of(feature) for name, feature in features.items()},
        looked=_looked(records.history, wanted),
        ends=bool(records.history.label.follow_up),
    )
    if kind == "fhir":
        if records.history.label.follow_up == "period":
            raise DataError(f"{owner}: FHIR has no observation periods: ask for follow_up: record, or visit")
        return asked, read_fhir(path, owner)
    _require_concepts(records, wanted, own, more, owner)
    needed = wanted.records - (set() if records.history.label.death else {DEATH})
    return asked, read_omop(path, records, owner, kinds=needed, more=asked.looked | wanted.records)


def _looked(history: History, wanted: Wanted) -> frozenset[str]:
    """Return the kinds of record that show that a patient was looked on."""
    if history.label.follow_up == "visit":
        return frozenset({"visit"})
    procedures = {"procedure"} if history.label.follow_up or "procedure" in wanted.records else set()
    return frozenset({"measurement", "condition", "visit", "medication"} | procedures)


def _require_concepts(
    records: Records, wanted: Wanted, own: OwnCodes, more: Mapping[str, Sequence[str]], owner: str
) -> None:
    """Refuse a folder of OMOP in which nothing says what a code of the study is there."""
    unknown = []
    for name, _, codes in wanted_codes(records):
        same = [mine for code in codes for mine in (code, *own.codes.get(code, ()))]
        known = any(code.startswith(f"{OMOP} ") for code in same) or any(code in more for code in codes)
        if codes and not known and name not in wanted.absent:
            unknown.append(name)
    if unknown:
        raise DataError(
            f"{owner}: nothing says which concepts of OMOP {', '.join(unknown)} are: give OMOP and the concept id in "
            f"the study, or in its {SITE_CODES}, or put the table concept beside its records"
        )


def _require_patients(kept: Histories, kind: str, owner: str) -> None:
    """Refuse a folder without patients."""
    if not kept.persons:
        what = "Patient resources" if kind == "fhir" else "rows in its table person"
        raise DataError(f"{owner}: its records have no {what}; add them, or leave the site out")


def _require_codes(kept: Histories, asked: Asked, records: Records, owner: str) -> None:
    """Refuse records whose codes and units are not the study's; every feature is named."""
    wrong = []
    for name, _, codes in wanted_codes(records):
        if codes and not kept.found[name] and name not in asked.wanted.absent:
            stray = kept.faults[name, SYSTEM]
            more = f", and {stray} have its code in another terminology" if stray else ""
            wrong.append(f"no record has a code of {name}{more}")
    assert records.history is not None  # the study's own check
    if records.history.label.death and not kept.found[DEATH]:
        wrong.append("nobody has a date of death")
    if records.arm is not None and kept.unread[REFERENCED] and "medication" in _given(records):
        wrong.append(f"{kept.unread[REFERENCED]} x {REFERENCED}, so nobody knows who was given what")
    for feature in records.features:
        wrong += _unsound(feature, kept)
    if wrong:
        raise DataError(
            f"{owner}: its records are not what the study says: {'; '.join(wrong)}. Its {SITE_CODES} may say which "
            "codes and units mean the same there, or with an empty list that there is none"
        )


def _unsound(feature: Feature, kept: Histories) -> list[str]:
    """Say what is wrong with the values of a feature as a whole."""
    odd = {reason: kept.faults[feature.name, reason] for reason in OTHER if kept.faults[feature.name, reason]}
    there = sum(len(events.get(feature.name, ())) for events in kept.events.values())
    total = there + sum(odd.values())
    if not odd or sum(odd.values()) <= feature.most_outside * total:
        return []
    bounds = f" ({feature.range[0]:g} to {feature.range[1]:g} {feature.unit})" if feature.range else ""
    said = []
    for reason, count in odd.items():
        words = f" than {feature.unit} ({_units(kept.units[feature.name])})" if reason == UNIT else bounds
        said.append(f"{feature.name} is {reason}{words} in {count} of {total} values")
    return said


def _units(found: Counter[str]) -> str:
    """Name the units that were found, where they are known ones."""
    named: Counter[str] = Counter()
    for unit, count in found.items():
        plain = plain_unit(unit).lower()
        named[plain if plain in UNITS else "one not known" if unit else "none"] += count
    return ", ".join(unit for unit, _ in named.most_common(3))


def _given(records: Records) -> str:
    """Return the kind of record that says what patients were given."""
    return records.arm.given.record if records.arm is not None and records.arm.given is not None else ""


def _row(row: PatientRow, data: Data, unit: str) -> Row:
    """Turn a patient into a row; its name stays at the hospital."""
    assert data.records is not None
    columns = {feature.name: feature.column_name for feature in data.records.features}
    arm = {} if data.records.arm is None else {data.records.arm.column: row.arm}
    time = None if row.days is None else str(row.days) if unit == "days" else repr(row.days / DAYS[unit])
    return Row(
        name=f"patient {row.patient}",
        files=(),
        label=str(row.label) if time is None else Observation(time, str(row.label)),
        patient=row.patient,
        extras={columns[name]: cell for name, cell in row.cells.items()} | arm,
        fault=row.fault,
    )


def _remarks(kept: Histories, cohort: Cohort) -> list[Quarantined]:
    """Say in counts what was left out and what was not used, and why."""
    found = [Quarantined("patients", f"{cohort.left_out[why]} x {why}") for why in LEFT_OUT if cohort.left_out[why]]
    found += [
        Quarantined(name, f"{count} x {reason}") for (name, reason), count in sorted(kept.faults.items()) if count
    ]
    found += [Quarantined(name, f"{count} x {PARTIAL}") for name, count in sorted(cohort.partial.items()) if count]
    return found + [Quarantined("records", f"{count} x {reason}") for reason, count in sorted(kept.unread.items())]


def _counts(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{left_out[why]} x {why}" for why in LEFT_OUT if left_out.get(why)) or NO_INDEX


__all__ = ["INDEX", "LABEL", "ReadPatients", "read_patients"]
