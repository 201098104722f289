"""Days as hospitals write them: whole dates, dates with a time, and dates of which only month or year is known."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import date
from functools import lru_cache
from typing import NamedTuple

_WRITTEN = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)\S*)?)?)?")


class Span(NamedTuple):
    """The days that a date may mean, as numbers that count days; a whole date means one.

    Attributes:
        first: The first of them.
        last: The last of them.
    """

    first: int
    last: int

    @property
    def exact(self) -> bool:
        """Whether it is a whole date."""
        return self.first == self.last


@lru_cache(maxsize=65536)
def read_span(text: str) -> Span | None:
    """Read ``2019``, ``2019-05``, ``2019-05-17``, or a date with a time; None if it is none of these.

    The day is the one that is written: it is not moved into another time zone.

    >>> span = read_span("2019-02")
    >>> span.last - span.first + 1
    28
    >>> read_span("2019-05-17T23:30:00+02:00") == read_span("2019-05-17")
    True
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        return None
    year, month, day = (int(part) if part else 0 for part in found.group(1, 2, 3))
    try:
        if day:
            only = date(year, month, day).toordinal()
            return Span(only, only)
        if found[2]:
            return Span(date(year, month, 1).toordinal(), date(year, month, monthrange(year, month)[1]).toordinal())
        return Span(date(year, 1, 1).toordinal(), date(year, 12, 31).toordinal())
    except ValueError:
        return None


def time_of(text: str) -> str:
    """Return the time of day that is written, or midnight.

    >>> time_of("2019-05-17T08:30:00Z"), time_of("2019-05-17")
    ('08:30:00', '00:00:00')
    """
    found = _WRITTEN.fullmatch(text.strip())
    time = (found[4] if found else None) or "00:00:00"
    return time if len(time) == 8 else f"{time}:00"


def years_between(birth: Span, day: int) -> int:
    """Return the completed years of a person on a day; of a birth date in part, those of the middle of its days.

    >>> years_between(read_span("1960-06-01"), read_span("2020-05-31").first)
    59
    """
    born, now = date.fromordinal((birth.first + birth.last) // 2), date.fromordinal(day)
    return now.year - born.year - ((now.month, now.day) < (born.month, born.day))
