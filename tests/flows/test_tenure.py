"""How long a process acts for the coordinator, with a real database of the gateway."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.errors import LeaseLostError, ServiceError
from components.gateway.database import Database
from components.gateway.leases import Lease, Leases
from flows import tenure as module
from flows.tenure import Tenure
from tests.components.gateway.gates import until

STUDY = "study chest"


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leases]:
    """Leases of a second, looked at often."""
    monkeypatch.setattr("components.gateway.leases.LEASE_S", 1.0)
    monkeypatch.setattr(module, "LEASE_S", 1.0)
    monkeypatch.setattr(module, "SURE_S", 0.75)
    monkeypatch.setattr(module, "RENEW_EVERY_S", 0.1)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.05)
    database = Database(f"sqlite:///{tmp_path}/g.db")
    yield Leases(database)
    database.close()


@pytest.fixture
def begin(leases: Leases, tmp_path: Path) -> Iterator[Callable[..., Tenure]]:
    begun: list[Tenure] = []

    def start(place: str, say: Callable[[str], None] = lambda _: None) -> Tenure:
        lock = tmp_path / place
        lock.touch()
        begun.append(Tenure.begin(leases, STUDY, lock, say=say, check=lambda: None))
        return begun[-1]

    yield start
    for tenure in begun:
        tenure.close()


def stop(tenure: Tenure, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have a process's renewals wait as if it had been stopped; set, it goes on."""
    goes_on, renew = threading.Event(), tenure._renew
    monkeypatch.setattr(tenure, "_renew", lambda: (goes_on.wait(30), renew()))
    return goes_on


def test_one_that_renews_keeps_it_beyond_its_length_and_gives_it_back(
    begin: Callable[..., Tenure], leases: Leases
) -> None:
    first = begin("a")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        first.require()
    first.close()
    found = leases.find(STUDY)
    assert found is not None
    assert (found.epoch, found.given_back) == (1, True)


def test_a_second_one_waits_says_for_whom_and_takes_over_and_the_first_steps_aside(
    begin: Callable[..., Tenure], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, said, told = begin("a"), list[str](), threading.Event()
    first.tell(told.set)
    goes_on = stop(first, monkeypatch)
    second = begin("b", said.append)
    second.require()
    assert [bool(text) for text in said] == [True, False]
    assert "drives study chest: taking over once it was not heard of for 1 s" in said[0]
    assert second.after is None
    assert not first.lost
    goes_on.set()
    with pytest.raises(LeaseLostError, match=r"stepped aside: .* drives study chest since this process"):
        first.require()
    assert told.wait(10)


def test_who_was_stopped_and_not_followed_by_anybody_goes_on(
    begin: Callable[..., Tenure], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begin("a")
    goes_on = stop(first, monkeypatch)
    until(lambda: not first._sure())
    goes_on.set()
    first.require()
    assert not first.lost


def test_while_the_database_is_away_it_goes_on_as_long_as_it_is_sure_and_then_waits(
    begin: Callable[..., Tenure], leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, renew, written = begin("a"), leases.renew, list[float]()
    away = threading.Event()

    def fails(lease: Lease) -> bool:
        if away.is_set():
            raise ServiceError("the database does not answer")
        return renew(lease)

    monkeypatch.setattr(leases, "renew", fails)
    away.set()
    first.require()
    until(lambda: not first._sure())

    def write() -> None:
        first.require()
        written.append(time.monotonic())

    writing = threading.Thread(target=write)
    writing.start()
    writing.join(0.3)
    assert written == []
    away.clear()
    writing.join(10)
    assert len(written) == 1


def test_one_that_ends_in_order_while_another_waits_is_told_to_that_one(begin: Callable[..., Tenure]) -> None:
    first, said = begin("a"), threading.Event()
    threading.Thread(target=lambda: (said.wait(10), first.close())).start()
    second = begin("b", lambda text: said.set() if text else None)
    assert second.after is not None
    assert second.after.given_back
