from typing import Any

import pytest

from components.errors import RefusedError
from components.exchange.protocol import PROTOCOL, require_protocol


def test_the_same_version_is_accepted() -> None:
    require_protocol(PROTOCOL)


@pytest.mark.parametrize(("theirs", "older"), [(PROTOCOL + 1, "this end"), (PROTOCOL + 40, "this end")])
def test_a_newer_version_names_both_and_who_must_update(theirs: int, older: str) -> None:
    with pytest.raises(RefusedError, match=rf"north speaks .*{theirs}, .*{PROTOCOL}: update WardRound at {older}$"):
        require_protocol(theirs, "north")


def test_an_older_version_must_update_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.exchange.protocol.PROTOCOL", 3)
    with pytest.raises(RefusedError, match=r"north speaks .*version 2, this end speaks version 3: .* at north$"):
        require_protocol(2, "north")


@pytest.mark.parametrize("theirs", [None, True, 1.0, "1", 0, -1, [1], {"a": 1}, "x" * 10_000])
def test_what_is_no_version_is_refused_in_few_words(theirs: Any) -> None:
    with pytest.raises(RefusedError, match=f"this end speaks version {PROTOCOL}") as caught:
        require_protocol(theirs)
    assert len(str(caught.value)) < 200
