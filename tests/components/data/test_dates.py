"""Dates in whole and in part, as days."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.dates import read_span, time_of, years_between

DAYS = st.dates(date(1900, 1, 1), date(2100, 1, 1))


@given(DAYS)
def test_a_date_in_part_holds_the_whole_dates_that_begin_so(day: date) -> None:
    whole, month, year = (read_span(day.isoformat()[:length]) for length in (10, 7, 4))
    assert whole is not None
    assert month is not None
    assert year is not None
    assert whole == (day.toordinal(), day.toordinal())
    assert year.first <= month.first <= whole.first <= whole.last <= month.last <= year.last
    assert date.fromordinal(month.first).day == date.fromordinal(month.last + 1).day == 1
    assert year.last - year.first in (364, 365)


@given(DAYS, DAYS)
def test_completed_years_are_birthdays_passed(birth: date, now: date) -> None:
    span = read_span(birth.isoformat())
    assert span is not None
    if birth <= now and (birth.month, birth.day) != (2, 29):
        passed = sum(date(year, birth.month, birth.day) <= now for year in range(birth.year + 1, now.year + 1))
        assert years_between(span, now.toordinal()) == passed


@pytest.mark.parametrize(
    "text",
    ["", "soon", "19", "2019-13", "2019-02-30", "2019-2-3", "03.02.2019", "0000-01-01", "2019-01-01T8"],
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert read_span(text) is None


def test_times_are_read_with_and_without_seconds() -> None:
    written = ("2019-01-01T08:30Z", "2019-01-01 08:30:00", "2019-01-01T08:30:00.250+01:00", "2019-01")
    assert [time_of(text) for text in written] == ["08:30:00"] * 3 + ["00:00:00"]
