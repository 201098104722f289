"""Until when a patient was looked on, and whether what a survival study waits for was seen until then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from components.data.histories import Event
from components.data.terminology import DEATH, LABEL, PERIOD
from components.history import History, Outcome, day

BEFORE, PART, LOST = "had it before", "date of the label known in part only", "not looked on for long enough"
DIED, UNPERIODED = "died before the label's window", "index date is in no observation period"
DEAD = "died before the index date"  # no reason to leave them out, but a mistake of the records
Events = Mapping[str, Sequence[Event]]


class Followed(NamedTuple):
    """A patient's outcome.

    Attributes:
        days: From the index date to the event, or to the end of observation.
        event: 1 if it was seen then.
    """

    days: int
    event: int


def follow(events: Events, seen: tuple[int, int] | None, history: History, index: int) -> Followed | str:
    """Return when a patient's outcome came, or until when it had not; or why they are left out.

    Args:
        events: The patient's, by name.
        seen: The first and the last day on which a record shows that they were looked on.
        history: The study's.
        index: The index date, as a number that counts days.

    Guarantees:
        The event is on or before the end of observation, and neither is before the label's window or after its end,
        ``history.until`` or death.
    """
    label, died = history.label, death_day(events)
    low, high = (index + days for days in label.window_days)
    if died is not None and index <= died < low:
        return DIED
    before = events.get(LABEL, ())
    if label.new and any(event.last < low for event in before):
        return BEFORE
    if label.new and any(event.first < low <= event.last for event in before):
        return PART
    end = _end(events, seen, history, index)
    if isinstance(end, str):
        return end
    end = min(end, high, day(history.until))
    outcome = _first(events, label, low, end)
    if isinstance(outcome, str):
        return outcome
    if outcome is not None:
        return Followed(outcome - index, 1)
    return LOST if end < low else Followed(end - index, 0)


def death_day(events: Events) -> int | None:
    """Return the day of a patient's death; None if they live, or it is known in part only."""
    return min((event.first for event in events.get(DEATH, ()) if event.first == event.last), default=None)


def _end(events: Events, seen: tuple[int, int] | None, history: History, index: int) -> int | str:
    """Return the last day of observation, whatever the window; or why there is none."""
    died, deaths = death_day(events), events.get(DEATH, ())
    if history.label.follow_up == "period":
        found = [event.last for event in events.get(PERIOD, ()) if event.first <= index <= event.last]
        if not found:
            return UNPERIODED
        last = max(found)
        return last if died is None else min(last, died)
    if died is not None:
        return died
    last = index if seen is None else seen[1]
    return min([last, *(event.last for event in deaths)])


def _first(events: Events, label: Outcome, low: int, end: int) -> int | str | None:
    """Return the day of the first outcome from `low` to `end`; None without one; `PART` if it cannot be said."""
    outcomes = [*events.get(LABEL, ()), *(events.get(DEATH, ()) if label.death else ())]
    days = [event.first for event in outcomes if event.first == event.last and low <= event.first <= end]
    first = min(days, default=None)
    until = end if first is None else first - 1
    unsure = any(event.first != event.last and event.first <= until and event.last >= low for event in outcomes)
    return PART if unsure else first
