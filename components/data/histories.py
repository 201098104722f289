"""Patients' dated records, of whatever format: what a reader gives, and what is kept of it for a study."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from components.data.dates import Span, read_span, time_of
from components.data.encoding import plain
from components.data.terminology import DEATH, PERIOD, Wanted, key_of
from components.features import Feature

# Why a record is not used. Those of `OTHER` say that the hospital's columns are not the study's.
NO_DATE, NOT_A_DAY, LATE, TWICE = (
    "has no date",
    "has a date that is none",
    "is dated later than the study's end",
    "twice",
)
BACKWARDS = "ends before it begins, or never"
NOBODY, NO_VALUE, BOUND = "of nobody among the patients", "has no value", "is a bound, not a value"
UNIT, NO_NUMBER, RANGE, CATEGORY = "in another unit", "no number", "out of its range", "of no category"
OTHER = (UNIT, NO_NUMBER, RANGE, CATEGORY)
SYSTEM = "its code in another terminology"


class Person(NamedTuple):
    """A patient.

    Attributes:
        ident: What the hospital's records call them.
        birth: Birth date as it is written, perhaps in part; empty if unknown.
        sex: ``male``, ``female``, ``other``, or empty if unknown.
    """

    ident: str
    birth: str
    sex: str


class Alias(NamedTuple):
    """Another name of a patient in references, such as ``urn:uuid:...``."""

    reference: str
    ident: str


class Unread(NamedTuple):
    """Something that cannot be used whatever the study asks for, and why."""

    reason: str


class Value(NamedTuple):
    """What was found.

    Attributes:
        number: A number, or its text; None if there is none.
        units: The unit, as any of these: UCUM, or ``OMOP`` and a concept id.
        words: Codes (see `terminology.key_of`) and text, of which any may stand for a category.
        bound: Whether the number is a bound such as in "< 5".
    """

    number: float | str | None = None
    units: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    bound: bool = False


class Entry(NamedTuple):
    """A dated record.

    Attributes:
        record: ``measurement``, ``condition``, ``visit``, ``medication``, ``procedure``; or `DEATH` or `PERIOD`.
        ident: Its own identifier; empty if it has none.
        patient: Whose it is, as it is referred to.
        codes: Its codes, as `terminology.key_of` writes them.
        date: Its date, as it is written; empty if it has none.
        value: What was measured.
        void: Why it does not count; empty if it does.
        end: When it ended, as it is written; empty if that is not known.
    """

    record: str
    ident: str
    patient: str
    codes: tuple[str, ...]
    date: str
    value: Value = Value()
    void: str = ""
    end: str = ""


class Event(NamedTuple):
    """What is kept of a record for one feature, the index or the label; in this order, events are in that of time."""

    first: int
    last: int
    time: str
    value: float | str


@dataclass(frozen=True)
class Asked:
    """What is asked of a hospital's records.

    Attributes:
        wanted: By code.
        features: By name.
        factors: For each feature, by what a value in a unit is multiplied.
        until: The last day that counts.
        missing: For each feature, values that mean that there is none.
        looked: Kinds of record that show that a patient was looked on.
        ends: Whether their end shows it, too.
    """

    wanted: Wanted
    features: Mapping[str, Feature]
    factors: Mapping[str, Mapping[str, float]]
    until: int
    missing: Mapping[str, Sequence[str]]
    looked: frozenset[str] = frozenset()
    ends: bool = False


@dataclass
class Histories:
    """What was kept, by patient; filled by `collect` alone.

    Attributes:
        persons: The patients.
        torn: Patients who are there twice, unlike.
        events: For each patient, the events of each name that is wanted.
        seen: For each patient, the first day and the last day of any record that shows that they were looked on.
        faults: Records that are wanted and cannot be used, by what for and why.
        found: Records that have a wanted code, by what for.
        unread: What cannot be used whatever is asked for.
        units: For each feature, units that are none of the study's.
    """

    persons: dict[str, Person] = field(default_factory=dict)
    torn: set[str] = field(default_factory=set)
    events: dict[str, dict[str, list[Event]]] = field(default_factory=dict)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    units: dict[str, Counter[str]] = field(default_factory=dict)


def collect(items: Iterable[Person | Alias | Unread | Entry], asked: Asked) -> Histories:
    """Keep what the study asks for, in one pass; memory grows with the patients and with what is kept.

    Guarantees:
        The order of the items decides nothing but which of two records with the same identifier counts: the first.
    """
    kept, aliases, seen_before = Histories(), dict[str, str](), set[tuple[str, str]]()
    for item in items:
        if isinstance(item, Entry):
            _keep(item, asked, kept, seen_before)
        elif isinstance(item, Person):
            before = kept.persons.setdefault(item.ident, item)
            if before != item:
                kept.torn.add(item.ident)
        elif isinstance(item, Alias):
            aliases[item.reference] = item.ident
        else:
            kept.unread[item.reason] += 1
    for reference in sorted({*kept.events, *kept.seen} - kept.persons.keys()):
        _give(reference, aliases.get(reference, ""), kept)
    return kept


def _keep(entry: Entry, asked: Asked, kept: Histories, seen_before: set[tuple[str, str]]) -> None:
    """Keep what is wanted of one record."""
    span = read_span(entry.date) if entry.date else None
    if span is not None and not entry.void and span.first <= asked.until and entry.record in asked.looked:
        ended = _ended(entry, span) if asked.ends else span.first
        first, last = kept.seen.get(entry.patient, (span.first, ended))
        kept.seen[entry.patient] = (min(first, span.first), max(last, ended))
    names = asked.wanted.of(entry.record, entry.codes)
    for name in asked.wanted.elsewhere(entry.record, entry.codes) - names:
        kept.faults[name, SYSTEM] += 1
    if not names:
        return
    reason = _reason(entry, span, asked, twice=bool(entry.ident) and (entry.record, entry.ident) in seen_before)
    seen_before.add((entry.record, entry.ident))
    for name in sorted(names):
        kept.found[name] += not entry.void and reason != TWICE
        value = "" if reason else _value(entry.value, asked, name, kept)
        if reason or isinstance(value, _Fault):
            kept.faults[name, reason or str(value)] += 1
        if entry.record == DEATH and span is None and not entry.void:  # it was, but nobody knows on which day
            kept.events.setdefault(entry.patient, {}).setdefault(name, []).append(Event(1, asked.until, "", ""))
        elif span is not None and not reason and not isinstance(value, _Fault):
            last = _ended(entry, span) if entry.record == PERIOD else span.last
            event = Event(span.first, last, time_of(entry.date), value)
            kept.events.setdefault(entry.patient, {}).setdefault(name, []).append(event)


def _ended(entry: Entry, span: Span) -> int:
    """Return the last day of a record: that on which it ended, where this is known and not before it began."""
    ended = read_span(entry.end) if entry.end else None
    return span.first if ended is None else max(span.first, ended.first)


def _reason(entry: Entry, span: Span | None, asked: Asked, *, twice: bool) -> str:
    """Say why a record that is wanted cannot be used; nothing if it can."""
    if entry.void or span is None:
        return entry.void or (NOT_A_DAY if entry.date else NO_DATE)
    if twice or span.first > asked.until:
        return TWICE if twice else LATE
    ended = read_span(entry.end) if entry.end else None
    return BACKWARDS if entry.record == PERIOD and (ended is None or ended.first < span.first) else ""


class _Fault(str):
    """Why a value cannot be used."""


def _value(value: Value, asked: Asked, name: str, kept: Histories) -> float | str | _Fault:
    """Return a value as the feature needs it; text is empty where it needs none."""
    feature = asked.features.get(name)
    if feature is None or feature.take in ("count", "any"):
        return ""
    missing = asked.missing[name]
    if feature.type != "numeric":
        return _category(value, feature, missing)
    text = "" if value.number is None else plain(str(value.number).strip())
    if not text or text in missing:
        return _Fault(NO_VALUE)
    if value.bound:
        return _Fault(BOUND)
    factor = next((asked.factors[name][unit] for unit in value.units if unit in asked.factors[name]), None)
    if factor is None and not (not value.units and "1" in asked.factors[name]):
        kept.units.setdefault(name, Counter())[value.units[0] if value.units else ""] += 1
        return _Fault(UNIT)
    try:
        number = float(text) * (1.0 if factor is None else factor)
    except ValueError:
        return _Fault(NO_NUMBER)
    low, high = feature.range or (-math.inf, math.inf)
    return number if math.isfinite(number) and low <= number <= high else _Fault(RANGE)


def _category(value: Value, feature: Feature, missing: Sequence[str]) -> str | _Fault:
    """Return the category, or ``yes`` or ``no``, that a value stands for."""
    meant = {key_of(code): category for category, codes in feature.meanings.items() for code in codes}
    allowed = feature.categories or ["no", "yes", "false", "true"]
    words = [plain(word) for word in (*value.words, "" if value.number is None else str(value.number)) if word]
    words = [word for word in words if word not in missing]
    for word in words:
        bare = word.rpartition("|")[2]
        found = meant.get(word) or (bare if bare in allowed else None)
        if found is not None:
            return found
    return _Fault(CATEGORY if words else NO_VALUE)


def _give(reference: str, ident: str, kept: Histories) -> None:
    """Give records to the patient that a reference means; without one, nobody has them."""
    events, seen = kept.events.pop(reference, {}), kept.seen.pop(reference, None)
    if ident not in kept.persons:
        for name, found in events.items():
            kept.faults[name, NOBODY] += len(found)
        return
    for name, found in events.items():
        kept.events.setdefault(ident, {}).setdefault(name, []).extend(found)
    if seen is not None:
        first, last = kept.seen.get(ident, seen)
        kept.seen[ident] = (min(first, seen[0]), max(last, seen[1]))
