"""From patients' histories to the rows of a table: who takes part, and what is known of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from components.data.dates import read_span, years_between
from components.data.follow_up import BEFORE, DEAD, DIED, LOST, PART, UNPERIODED, death_day, follow
from components.data.histories import Event, Histories, Person
from components.data.terminology import DEATH, INDEX, LABEL, arm_name
from components.features import Arm, Feature, Records
from components.history import History, Outcome, day

# Why a patient is left out: not a mistake, but no patient of this study.
NO_INDEX, AGE, UNTIL = "no index date", "of another age, or of none known", "window of the label ends after the records"
NEITHER, BOTH, UNSURE = "of neither arm", "of both arms", "date of what they were given known in part only"
LEFT_OUT = (NO_INDEX, AGE, NEITHER, BOTH, UNSURE, UNTIL, DIED, UNPERIODED, BEFORE, PART, LOST)
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
        days: For survival: days from the index date to the label, or to the end of observation.
        arm: The level of the arm; empty in a study without.
    """

    patient: str
    label: int
    cells: dict[str, str]
    fault: str = ""
    days: int | None = None
    arm: str = ""


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
        index = _index(events.get(INDEX, []), records.history, cohort.partial)
        if index is None:
            cohort.left_out[NO_INDEX] += 1
            continue
        fault = _fault(kept, patient, index)
        found = _Found(0) if fault == DEAD else _entered(kept, patient, records, index)
        if isinstance(found, str):
            cohort.left_out[found] += 1
            continue
        cells = {
            feature.name: ""
            if fault or feature.name in absent
            else _cell(feature, events.get(feature.name, []), index, kept.persons[patient], cohort.partial)
            for feature in records.features
        }
        cohort.rows.append(PatientRow(patient, found.label, cells, fault, found.days, found.arm))
    return cohort


class _Found(NamedTuple):
    """What is asked of a patient who takes part."""

    label: int
    days: int | None = None
    arm: str = ""


def _entered(kept: Histories, patient: str, records: Records, index: int) -> _Found | str:
    """Return a patient's label and arm, or why they are left out."""
    assert records.history is not None  # the study's own check
    history, events = records.history, kept.events.get(patient, {})
    if history.ages is not None:
        birth = read_span(kept.persons[patient].birth)
        if birth is None or not history.ages[0] <= years_between(birth, index) <= history.ages[1]:
            return AGE
    arm = "" if records.arm is None else _arm(events, records.arm, index)
    if arm in LEFT_OUT:
        return arm
    if history.label.follow_up:
        followed = follow(events, kept.seen.get(patient), history, index)
        return followed if isinstance(followed, str) else _Found(followed.event, followed.days, arm)
    label = _yes_or_no(events, kept.seen[patient][1], history, index)
    return label if isinstance(label, str) else _Found(label, arm=arm)


def _yes_or_no(events: Mapping[str, Sequence[Event]], last_seen: int, history: History, index: int) -> int | str:
    """Return 1 with the label and 0 without; or why a patient is left out."""
    label, died = history.label, death_day(events)
    if index + label.window_days[1] > day(history.until):
        return UNTIL
    if label.death and died is not None and index <= died < index + label.window_days[0]:
        return DIED
    deaths = events.get(DEATH, ()) if label.death else ()
    found = _label([*events.get(LABEL, ()), *deaths], label, index)
    return LOST if found == 0 and last_seen < index + label.window_days[1] else found


def _arm(events: Mapping[str, Sequence[Event]], arm: Arm, index: int) -> str:
    """Return the level of the arm that a patient was given, or why they are left out."""
    assert arm.given is not None  # the study's own check
    low, high = (index + days for days in arm.given.window_days)
    given, unsure = [], False
    for level in arm.levels:
        found = events.get(arm_name(level), ())
        if any(low <= event.first and event.last <= high for event in found):
            given.append(level)
        else:
            unsure = unsure or any(event.first <= high and event.last >= low for event in found)
    if unsure or len(given) > 1:
        return UNSURE if unsure else BOTH
    if given:
        return given[0]
    return NEITHER if arm.levels[0] in arm.given.codes else arm.levels[0]


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


def _fault(kept: Histories, patient: str, index: int) -> str:
    """Say why a patient cannot be used; nothing if they can."""
    written, deaths = kept.persons[patient].birth, kept.events.get(patient, {}).get(DEATH, ())
    birth = read_span(written) if written else None
    if patient in kept.torn:
        return TORN
    if written and birth is None:
        return NO_BIRTH
    if birth is not None and birth.first > index:
        return UNBORN
    return DEAD if any(event.last < index for event in deaths) else ""


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
