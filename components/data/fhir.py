"""FHIR R4 as hospitals export it: bundles (JSON), and bulk exports (NDJSON), gzipped or not.

Read are Patient, Observation, Condition, Encounter, Procedure, MedicationRequest, MedicationStatement and
MedicationAdministration; other resources are passed over. NDJSON is read line by line; a bundle has to fit into memory,
and has a largest size. No library: of FHIR's types these few fields are used, and each is checked where it is read.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from components.data.histories import Alias, Entry, Person, Unread, Value
from components.data.terminology import DEATH, plain_unit
from components.errors import DataError

MOST_BYTES = 256 << 20  # of a bundle, unpacked: Python needs about ten times as much to hold it
MOST_LINE = 16 << 20  # of one resource
LINES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
BUNDLES = (".json", ".json.gz")
REFERENCED = "a medication that refers to a Medication, and has no code of its own"
UCUM = "http://unitsofmeasure.org"
_HOLDING = frozenset({"transaction", "batch", "collection", "searchset", "document"})

Item = Person | Alias | Unread | Entry
Table = Mapping[str, Any]


def fhir_files(folder: Path) -> list[Path]:
    """Return the files of a folder, and of those below it, that may hold resources, in the order of their names."""
    found = [path for path in folder.rglob("*") if path.name.lower().endswith((*LINES, *BUNDLES))]
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def read_fhir(folder: Path, owner: str) -> Iterator[Item]:
    """Read all files of a folder.

    Args:
        folder: The hospital's folder.
        owner: Whose it is, for messages.

    Raises:
        DataError: If a file cannot be read as a whole, or is not of FHIR R4: with a part of the records alone, labels
            would be wrong. The message names no file; the note beside it, which stays at the hospital, does.
    """
    for file in fhir_files(folder):
        place = [0]
        try:
            with _opened(file) as stream:
                if file.name.lower().endswith(LINES):
                    yield from _lines(stream, place)
                else:
                    yield from _bundle(stream)
        except _NotR4Error as error:
            raise _named(DataError(f"{owner}: its records are not FHIR R4: {error}"), file, place[0]) from None
        except _TooLargeError as error:
            raise _named(DataError(f"{owner}: {error}"), file, place[0]) from None
        except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
            text = f"{owner}: one of its files is truncated, or no JSON in UTF-8 ({type(error).__name__})"
            raise _named(DataError(f"{text}: wardround records names it there"), file, place[0]) from None


class _NotR4Error(Exception):
    """A resource is of another version."""


class _TooLargeError(Exception):
    """A file or a line is larger than is read."""


def _named(error: DataError, file: Path, line: int) -> DataError:
    """Note at an error which file it is about: a note stays at the hospital."""
    error.add_note(f"it is {file}" + (f", line {line}" if line else ""))
    return error


def _opened(file: Path) -> IO[bytes]:
    """Open a file, unpacking it on the way."""
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")  # type: ignore[return-value]


def _lines(stream: IO[bytes], place: list[int]) -> Iterator[Item]:
    """Read a resource a line."""
    while line := stream.readline(MOST_LINE + 1):
        place[0] += 1
        if len(line) > MOST_LINE:
            raise _TooLargeError(f"a line of one of its files has more than {MOST_LINE >> 20} MiB; it is no resource")
        if line.strip():
            yield from _resource(_json(line), "")


def _bundle(stream: IO[bytes]) -> Iterator[Item]:
    """Read a bundle, or one resource."""
    content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise _TooLargeError(
            f"one of its bundles has more than {MOST_BYTES >> 20} MiB: export it as NDJSON, or as several bundles"
        )
    whole = _json(content)
    if not isinstance(whole, dict) or whole.get("resourceType") != "Bundle":
        yield from _resource(whole, "")
        return
    if whole.get("type") not in _HOLDING:
        raise _NotR4Error(f"a bundle is none of {', '.join(sorted(_HOLDING))}")
    for entry in _list(whole.get("entry")):
        if _table(_table(entry).get("search")).get("mode") == "outcome":
            continue
        if _table(_table(entry).get("request")).get("method", "POST") not in ("POST", "PUT"):
            yield Unread("an entry of a bundle that changes or deletes another")
            continue
        yield from _resource(_table(entry).get("resource"), _text(_table(entry).get("fullUrl")))


def _json(content: bytes) -> Any:
    """Parse JSON in UTF-8; NaN and Infinity are none."""
    return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse)


def _refuse(word: str) -> float:
    raise ValueError(word)


def _table(value: object) -> Table:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _resource(resource: object, url: str) -> Iterator[Item]:
    """Turn one resource into what is read of it."""
    table = _table(resource)
    kind = _text(table.get("resourceType"))
    if not kind:
        yield Unread("a resource without a type")
    elif kind == "Patient":
        yield from _patient(table, url)
    elif kind == "Observation":
        yield from _observation(table, url)
    elif kind in _DATED:
        record, codes, dates = _DATED[kind]
        if kind == "Encounter" and (isinstance(table.get("class"), list) or "actualPeriod" in table):
            raise _NotR4Error("an Encounter is of another version")
        found = tuple(code for word in codes for code in _codes(table.get(word)))
        if record == "medication" and "medicationReference" in table:
            yield Unread(REFERENCED)
        date, end = _date(table, dates), _text(_table(table.get("period")).get("end"))
        yield Entry(record, _ident(table, url), _subject(table), found, date, void=_void(kind, table), end=end)


def _ident(table: Table, url: str) -> str:
    """Return what a resource is called: its own id, or the last part of where a bundle says that it is."""
    return _text(table.get("id")) or url.replace(":", "/").rpartition("/")[2]


def _patient(table: Table, url: str) -> Iterator[Item]:
    """Read a Patient."""
    ident = _ident(table, url)
    if not ident:
        yield Unread("a patient without an id")
        return
    if url:
        yield Alias(url, ident)
    gender = _text(table.get("gender"))
    yield Person(ident, _text(table.get("birthDate")), gender if gender in ("male", "female", "other") else "")
    died = _text(table.get("deceasedDateTime"))
    if died or table.get("deceasedBoolean") is True:
        yield Entry(DEATH, "", ident, (), died)


def _subject(table: Table) -> str:
    """Return the patient that a resource refers to: the id, or a ``urn:``; empty if it is none."""
    reference = _text(_table(table.get("subject", table.get("patient"))).get("reference"))
    if reference.startswith("urn:"):
        return reference
    parts = reference.split("/")
    return parts[parts.index("Patient") + 1] if "Patient" in parts[:-1] else ""


def _codes(value: object) -> list[str]:
    """Return the codes of a Coding, a CodeableConcept, or a list of them."""
    if isinstance(value, list):
        return [code for part in value for code in _codes(part)]
    table = _table(value)
    if "coding" in table:
        return _codes(table["coding"])
    code = _text(table.get("code"))
    return [f"{_text(table.get('system'))}|{code}"] if code else []


def _date(table: Table, names: tuple[str, ...]) -> str:
    """Return the first of some dates that is there; of a period, its beginning."""
    found = (table.get(name) for name in names)
    return next((text for value in found if (text := _text(_table(value).get("start", value)))), "")


_MEDICATION = ("medicationCodeableConcept",)
_DATED = {  # of each resource: the kind of record, where its codes are, and its date
    "Condition": ("condition", ("code",), ("onsetDateTime", "onsetPeriod", "recordedDate")),
    "Encounter": ("visit", ("class", "type"), ("period",)),
    "MedicationRequest": ("medication", _MEDICATION, ("authoredOn",)),
    "MedicationStatement": ("medication", _MEDICATION, ("effectiveDateTime", "effectivePeriod")),
    "MedicationAdministration": ("medication", _MEDICATION, ("effectiveDateTime", "effectivePeriod")),
    "Procedure": ("procedure", ("code",), ("performedDateTime", "performedPeriod")),
}
_MEASURED = ("effectiveDateTime", "effectiveInstant", "effectivePeriod")
_NOT_DONE = frozenset({"entered-in-error", "cancelled", "planned", "draft", "not-done", "not-taken", "preparation"})
_IN_ERROR, _PROVISIONAL, _MODIFIED = "entered in error, or never done", "not final or not confirmed", "modified"


def _void(kind: str, table: Table) -> str:
    """Say why a resource does not count; nothing if it does."""
    if table.get("modifierExtension") or table.get("implicitRules"):
        return f"{_MODIFIED} by an extension that is not known"
    status = _text(table.get("status"))
    if kind == "Condition":
        said = {code.rpartition("|")[2] for code in _codes(table.get("verificationStatus"))}
        if said & {"entered-in-error", "refuted"}:
            return _IN_ERROR
        return _PROVISIONAL if said and "confirmed" not in said else ""
    if status in _NOT_DONE or (kind == "MedicationRequest" and table.get("doNotPerform") is True):
        return _IN_ERROR
    return _PROVISIONAL if kind == "Observation" and status not in ("final", "amended", "corrected") else ""


def _observation(table: Table, url: str) -> Iterator[Item]:
    """Read an Observation, and each of its components as one."""
    ident, patient, void = _ident(table, url), _subject(table), _void("Observation", table)
    date = _date(table, _MEASURED)
    parts = [table, *_list(table.get("component"))]
    for number, part in enumerate(parts):
        own = f"{ident}#{number}" if ident else ""
        codes = tuple(_codes(_table(part).get("code")))
        yield Entry("measurement", own, patient, codes, date, _value(_table(part)), void)


def _value(part: Table) -> Value:
    """Return what an Observation, or a component of it, found."""
    quantity = _table(part.get("valueQuantity"))
    if quantity:
        number = quantity.get("value")
        known = isinstance(number, int | float) and not isinstance(number, bool)
        return Value(number if known else None, _units(quantity), bound=bool(quantity.get("comparator")))
    whole, yes = part.get("valueInteger"), part.get("valueBoolean")
    if isinstance(whole, int) and not isinstance(whole, bool):
        return Value(whole)
    if isinstance(yes, bool):
        return Value(words=("true" if yes else "false",))
    concept = part.get("valueCodeableConcept")
    said = (_text(_table(concept).get("text")), _text(part.get("valueString")))
    return Value(words=(*_codes(concept), *filter(None, said)))


def _units(quantity: Table) -> tuple[str, ...]:
    """Return the unit of a quantity: its UCUM code; of one without a system, what is written."""
    system, code, unit = (_text(quantity.get(word)) for word in ("system", "code", "unit"))
    if system and system != UCUM:
        return (f"{system}|{code}",)
    found = code if system and code else unit or code
    return (plain_unit(found),) if found else ()
