"""The clerk that keeps the gateway's list of work, with a real database."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import ServiceError, StorageError
from components.gateway.database import Database
from components.gateway.grants import Change, Grants
from components.gateway.records import SlotKey
from flows import clerk as module
from flows.clerk import Clerk
from tests.components.gateway.gates import until


def slot(number: int) -> SlotKey:
    return SlotKey(training="t", round=number, attempt=1, site="north")


@pytest.fixture
def grants(tmp_path: Path) -> Iterator[Grants]:
    database = Database(f"sqlite:///{tmp_path}/g.db")
    yield Grants(database)
    database.close()


def test_changes_are_made_in_their_order_and_all_before_it_ends(grants: Grants) -> None:
    clerk = Clerk(grants)
    for number in range(1, 30):
        clerk.do(grants.opening(slot(number), max_bytes=1, request=str(number)))
        if number % 2:
            clerk.do(grants.closing(slot(number)))
    clerk.do(grants.opening(slot(1), max_bytes=1, request="again"))
    clerk.close()
    wanted = ["again", *(str(number) for number in range(2, 30, 2))]
    assert sorted(item.request for item in grants.work("north")) == sorted(wanted)


def test_what_follows_a_change_is_done_after_it_and_its_errors_end_nothing(grants: Grants) -> None:
    grants.open_slot(slot(1), max_bytes=1)
    seen: list[int | None] = []

    def look() -> None:
        seen.append(grants.open_bytes(slot(1)))
        raise StorageError("the disk is full")

    clerk = Clerk(grants)
    clerk.do(grants.closing(slot(1)), look)
    clerk.do(grants.opening(slot(1), max_bytes=2))
    until(lambda: grants.open_bytes(slot(1)) == 2)
    clerk.close()
    assert seen in ([None], [2])  # where both were made in one transaction


def test_what_is_asked_for_at_once_is_one_transaction(grants: Grants, monkeypatch: pytest.MonkeyPatch) -> None:
    made, apply, held = [], grants.apply, threading.Event()

    def noting(changes: list[Change]) -> None:
        made.append(len(changes))
        held.wait(10)
        apply(changes)

    monkeypatch.setattr(grants, "apply", noting)
    clerk = Clerk(grants)
    clerk.do(grants.opening(slot(1), max_bytes=1))
    until(lambda: made)
    for number in range(2, 12):
        clerk.do(grants.opening(slot(number), max_bytes=1))
    held.set()
    clerk.close()
    assert made == [1, 10]


def test_a_database_that_is_away_loses_nothing(grants: Grants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    tries, apply = [], grants.apply

    def away(changes: list[Change]) -> None:
        tries.append(len(changes))
        if len(tries) < 4:
            raise ServiceError("the database does not answer")
        apply(changes)

    monkeypatch.setattr(grants, "apply", away)
    clerk = Clerk(grants)
    clerk.do(grants.opening(slot(1), max_bytes=7))
    until(lambda: len(tries) >= 4)
    clerk.close()
    assert grants.open_bytes(slot(1)) == 7
