"""Leases: one holder at a time by the database's clock, and nothing changed in the name of one that was lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from components.errors import LeaseLostError
from components.gateway.database import Database, leases
from components.gateway.grants import Grants
from components.gateway.leases import LEASE_S, Leases
from components.gateway.records import SlotKey

STUDY = "study chest"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/g.db")
    yield database
    database.close()


@pytest.fixture
def held(database: Database) -> Leases:
    return Leases(database)


def age(database: Database, seconds: float) -> None:
    """Let a lease's last renewal be so long ago."""
    with database.write() as connection:
        connection.execute(update(leases).values(renewed_at=leases.c.renewed_at - seconds))


def test_a_second_one_gets_it_only_once_it_has_run_out_and_the_first_then_knows(
    database: Database, held: Leases
) -> None:
    first, before = held.take(STUDY, "a", "north (1)")
    assert first is not None
    assert (first.epoch, before) == (1, None)
    age(database, LEASE_S - 5)
    second, before = held.take(STUDY, "b", "south (2)")
    assert (second, before and before.holder) == (None, "north (1)")
    assert held.renew(first)
    age(database, LEASE_S + 1)
    second, before = held.take(STUDY, "b", "south (2)")
    assert second is not None
    assert (second.epoch, before and before.given_back) == (2, False)
    assert (held.renew(first), held.renew(second)) == (False, True)
    found = held.find(STUDY)
    assert found is not None
    assert (found.holder, found.epoch) == ("south (2)", 2)


def test_whoever_is_at_the_same_place_gets_it_at_once(held: Leases) -> None:
    held.take(STUDY, "a", "north (1)")
    again, _ = held.take(STUDY, "a", "north (7)")
    assert again is not None
    assert again.epoch == 2


def test_one_that_was_given_back_is_taken_at_once_and_only_its_holder_gives_it_back(held: Leases) -> None:
    first, _ = held.take(STUDY, "a", "north (1)")
    again, _ = held.take(STUDY, "a", "north (7)")
    assert first is not None
    assert again is not None
    held.give_back(first)
    assert held.take(STUDY, "b", "south (2)")[0] is None
    held.give_back(again)
    taken, before = held.take(STUDY, "b", "south (2)")
    assert taken is not None
    assert before is not None
    assert (taken.epoch, before.given_back) == (3, True)


def test_leases_of_other_names_are_others(held: Leases) -> None:
    assert held.take(STUDY, "a", "north (1)")[0] is not None
    assert held.take("study heart", "b", "south (2)")[0] is not None


def test_nothing_of_a_transaction_is_done_in_the_name_of_a_lost_lease(database: Database, held: Leases) -> None:
    grants, slot = Grants(database), SlotKey(training="t", round=1, attempt=1, site="north")
    first, _ = held.take(STUDY, "a", "north (1)")
    assert first is not None
    grants.apply([lambda connection: held.guard(connection, first), grants.opening(slot, max_bytes=1, request="one")])
    age(database, LEASE_S + 1)
    held.take(STUDY, "b", "south (2)")
    with pytest.raises(LeaseLostError, match=r"stepped aside: south \(2\) \(epoch 2\) drives study chest"):
        grants.apply([grants.opening(slot, max_bytes=1, request="two"), lambda c: held.guard(c, first)])
    assert [item.request for item in grants.work("north")] == ["one"]


def test_of_many_that_take_it_at_the_same_instant_one_gets_it(tmp_path: Path) -> None:
    url, start, taken = f"sqlite:///{tmp_path}/g.db", threading.Barrier(4), []
    Database(url).close()

    def take(place: str) -> None:
        database = Database(url)
        start.wait()
        taken.append(Leases(database).take(STUDY, place, place)[0])
        database.close()

    threads = [threading.Thread(target=take, args=(place,)) for place in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease is not None for lease in taken].count(True) == 1
