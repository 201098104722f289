"""What may be told of an error outside the hospital."""

import pytest

from components import errors
from components.errors import (
    DataError,
    LostError,
    NoDataError,
    RefusedError,
    SeenRoundError,
    SiteError,
    WardRoundError,
    fit_to_leave,
)

SECRET = "cannot read /ward-7/films/Smith^Anna.dcm"
LEAVE = (DataError, RefusedError, NoDataError, SeenRoundError, LostError)
STAYS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, WardRoundError) and kind not in (*LEAVE, SiteError)
]


@pytest.mark.parametrize("kind", [*STAYS, OSError, KeyError, MemoryError])
def test_of_most_errors_only_the_name_leaves(kind: type[Exception]) -> None:
    assert fit_to_leave(kind(SECRET)) == f"{kind.__name__}; see the hospital's own log"


def test_an_error_that_only_wraps_one_that_may_leave_stays() -> None:
    inner = RefusedError("the order is for another site")
    assert "order" not in fit_to_leave(SiteError(SECRET, site="north", round_number=1, stage="train"))
    assert fit_to_leave(RuntimeError(inner)) == "RuntimeError; see the hospital's own log"


@pytest.mark.parametrize("kind", LEAVE)
def test_what_data_and_checks_say_leaves_as_it_is(kind: type[WardRoundError]) -> None:
    assert fit_to_leave(kind("site north has no items")) == "site north has no items"
