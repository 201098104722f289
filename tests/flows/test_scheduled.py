"""A schedule that cannot be is told by the option that is wrong."""

import pytest

from components.errors import StudyError
from flows.scheduled import schedule_of


@pytest.mark.parametrize(
    ("cron", "timezone", "says"),
    [
        ("at night", "UTC", "^--cron 'at night' is no schedule; for example"),
        ("0 2 31 2 *", "UTC", r"^--cron '0 2 31 2 \*' never comes: no month has that day"),
        ("0 2 * * 0", "Europe/Nowhere", "^--timezone 'Europe/Nowhere' is no timezone; for example: Europe/Berlin"),
        ("at night", "Europe/Nowhere", "^--cron"),
    ],
)
def test_the_option_that_is_wrong_is_named(cron: str, timezone: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        schedule_of(cron, timezone)


@pytest.mark.parametrize("cron", ["0 2 29 2 *", "* * * * *", "0 2 31 * 0"])
def test_a_time_that_comes_is_kept(cron: str) -> None:
    schedule = schedule_of(cron, "Europe/Berlin")
    assert (schedule.cron, schedule.timezone) == (cron, "Europe/Berlin")
