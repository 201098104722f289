"""From patients' histories to the rows of a table: who takes part, and what is known of each on the index date."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from components.data.dates import Span, read_span, years_between
from components.data.histories import Event, Histories, Person
from components.data.terminology import INDEX, LABEL
from components.features import Feature, Records
from components.history import History, Outcome, day

# Why a patient is left out: not a mistake, but no patient of this study.
NO_INDEX, AGE, UNTIL = "no index date", "of another age, or of none known", "window of the label ends after the records"
BEFORE, PART, LOST = "had it before", "date of the label known in part only", "not looked on for long enough"
LEFT_OUT = (NO_INDEX, AGE, UNTIL, BEFORE, PART, LOST)
PARTIAL = "its date is known in part only"
# Why a patient who takes part cannot be used.
TORN, UNBORN, NO_BIRTH = "there twice, unlike", "birth date is after the index date", "birth date is none"


@dataclass(frozen=True)
class PatientRow:
    """One patient's row.

    Attributes:
        patient: What the hospital calls them.
        label: 1 with the label, 0 without.
        cells: The features as text, by name; empty where one is missing.
        fault: Why the row cannot be used; empty if it can.
    """

    patient: str
    label: int
    cells: dict[str, str]
    fault: str = ""


@dataclass(frozen=True)
class Cohort:
    """The patients of a study at one hospital.

    Attributes:
        rows: Those who take part, in the order of their identifiers.
        left_out: How many are left out, by why.
        partial: For each feature, records whose date is known too roughly to say whether they count.
    """

    rows: list[PatientRow]
    left_out: Counter[str] = field(default_factory=Counter)
    partial: Counter[str] = field(default_factory=Counter)


def build_cohort(kept: Histories, records: Records, absent: Sequence[str] = ()) -> Cohort:
    """Make a row of each patient who takes part.

    Args:
        kept: The patients' histories.
        records: The study's.
        absent: Features that the hospital does not record: missing in all rows.

    Guarantees:
        The rows depend on what is recorded, not on its order.
    """
    assert records.history is not None  # the study's own check
    cohort = Cohort([])
    for patient in sorted(kept.persons):
        events = kept.events.get(patient, {})
        found = _entered(kept, patient, records.history, cohort.partial)
        if isinstance(found, str):
            cohort.left_out[found] += 1
            continue
        index, label = found
        birth = kept.persons[patient].birth
        fault = _fault(read_span(birth) if birth else None, birth, index, patient in kept.torn)
        cells = {
            feature.name: ""
            if fault or feature.name in absent
            else _cell(feature, events.get(feature.name, []), index, kept.persons[patient], cohort.partial)
            for feature in records.features
        }
        cohort.rows.append(PatientRow(patient, label, cells, fault))
    return cohort


def _entered(kept: Histories, patient: str, history: History, partial: Counter[str]) -> tuple[int, int] | str:
    """Return a patient's index date and label, or why they are left out."""
    events = kept.events.get(patient, {})
    index = _index(events.get(INDEX, []), history, partial)
    if index is None:
        return NO_INDEX
    if history.ages is not None:
        birth = read_span(kept.persons[patient].birth)
        if birth is None or not history.ages[0] <= years_between(birth, index) <= history.ages[1]:
            return AGE
    if index + history.label.window_days[1] > day(history.until):
        return UNTIL
    label = _label(events.get(LABEL, []), history.label, index)
    if isinstance(label, str):
        return label
    if not label and kept.seen[patient][1] < index + history.label.window_days[1]:
        return LOST
    return index, label


def _index(events: Sequence[Event], history: History, partial: Counter[str]) -> int | None:
    """Return the index date; None if there is none. A date known in part cannot be one."""
    earliest = day(history.index.earliest) if history.index.earliest else 0
    latest = day(history.index.latest) if history.index.latest else math.inf
    partial[INDEX] += sum(event.first != event.last for event in events)
    days = [event.first for event in events if event.first == event.last and earliest <= event.first <= latest]
    if not days:
        return None
    return min(days) if history.index.take == "first" else max(days)


def _label(events: Sequence[Event], label: Outcome, index: int) -> int | str:
    """Return 1 with the label and 0 without; or why it cannot be said."""
    low, high = (index + days for days in label.window_days)
    if label.new and any(event.last < low for event in events):
        return BEFORE
    across = any(event.first < low <= event.last for event in events)
    if label.new and across:
        return PART
    if any(low <= event.first and event.last <= high for event in events):
        return 1
    return PART if across or any(event.first <= high < event.last for event in events) else 0


def _fault(birth: Span | None, written: str, index: int, torn: bool) -> str:
    """Say why a patient cannot be used; nothing if they can."""
    if torn:
        return TORN
    if written and birth is None:
        return NO_BIRTH
    return UNBORN if birth is not None and birth.first > index else ""


def _cell(feature: Feature, events: Sequence[Event], index: int, person: Person, partial: Counter[str]) -> str:
    """Return a feature's cell."""
    if feature.record == "sex":
        return person.sex
    if feature.record == "age":
        birth = read_span(person.birth) if person.birth else None
        return "" if birth is None else str(max(0, years_between(birth, index)))
    low = -math.inf if feature.window_days is None else index + feature.window_days[0]
    high = index + (0 if feature.window_days is None else feature.window_days[1])
    inside = sorted(event for event in events if low <= event.first and event.last <= high)
    partial[feature.name] += sum(
        event.first != event.last and event.first <= high and event.last >= low for event in events
    ) - sum(event.first != event.last for event in inside)
    if feature.take == "count":
        return str(len(inside))
    if feature.take == "any":
        return "yes" if inside else "no"
    return _taken(feature, [event.value for event in inside]) if inside else ""


def _taken(feature: Feature, values: Sequence[float | str]) -> str:
    """Make one value of several, which are in the order of time; on one day at one time, the smaller comes first."""
    if feature.take in ("first", "last"):
        return _written(values[0 if feature.take == "first" else -1])
    numbers = [float(value) for value in values]
    made = {"mean": math.fsum(numbers) / len(numbers), "min": min(numbers), "max": max(numbers)}
    return _written(made[feature.take])


def _written(value: float | str) -> str:
    """Write a value so that it is read back as it is."""
    return value if isinstance(value, str) else repr(value)
