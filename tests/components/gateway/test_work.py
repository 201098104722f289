"""The list of work: a site finds what it is asked, at once, and only what is its own."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from components.gateway.records import SlotKey
from components.gateway.slots import SealedSlots
from tests.components.gateway.gates import Build, Gate, until


@pytest.fixture(scope="module")
def held(build: Build) -> Gate:
    return build(hold_s=8.0)


@pytest.fixture
def north(held: Gate) -> Iterator[httpx.Client]:
    with held.http(held.enrol("north")) as client:
        yield client


def slot(number: int, site: str = "north") -> SlotKey:
    return SlotKey(training="t", round=number, attempt=1, site=site)


def requests(client: httpx.Client, rung: int = 0) -> list[str]:
    return [item["request"] for item in client.get("/v1/work", params={"rung": rung}, timeout=60).json()["items"]]


@pytest.fixture(autouse=True)
def nothing_open(held: Gate) -> None:
    held.grants.close_training("t")


def test_a_site_finds_its_own_open_requests_in_the_order_they_were_made(held: Gate, north: httpx.Client) -> None:
    for number, site in ((2, "north"), (1, "north"), (3, "south")):
        held.grants.open_slot(slot(number, site), max_bytes=9, request=f"{site} {number}")
    held.grants.open_slot(slot(4), max_bytes=9)  # nobody asks for what goes into it
    assert requests(north) == ["north 2", "north 1"]


def test_what_is_answered_or_closed_is_no_work_any_more(held: Gate, north: httpx.Client) -> None:
    for number in (1, 2, 3):
        held.grants.open_slot(slot(number), max_bytes=9, request=str(number))
    SealedSlots(held.exchange / "sealed").submit(slot(1), b"{}", sealed_sha256=None, sealed_bytes=None)
    held.grants.close_slot(slot(2))
    assert requests(north) == ["3"]
    SealedSlots(held.exchange / "sealed").discard(slot(1))


def test_a_question_is_held_until_something_is_asked_or_withdrawn(held: Gate, north: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as pool:
        for change, expected in (
            (lambda: held.grants.open_slot(slot(1), max_bytes=9, request="1"), ["1"]),
            (lambda: held.grants.close_slot(slot(1)), []),
        ):
            rung = north.get("/v1/work").json()["rung"]
            began, asked = time.monotonic(), pool.submit(requests, north, rung)
            until(lambda: held.running.server._gateway._bells._waiting)
            assert not asked.done()
            change()
            assert asked.result(5) == expected
            assert time.monotonic() - began < 4  # before the question is answered anyway


def test_a_question_with_what_was_known_before_a_restart_is_answered(held: Gate, north: httpx.Client) -> None:
    began = time.monotonic()
    assert requests(north, 10**6) == []
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("query", ["rung=-1", "rung=x", "rung=1&site=south", "site=south"])
def test_another_question_is_refused(north: httpx.Client, query: str) -> None:
    assert north.get(f"/v1/work?{query}").status_code == 400


def test_closing_a_training_says_what_was_open(held: Gate) -> None:
    for number, site in ((1, "north"), (1, "south"), (2, "north")):
        held.grants.open_slot(slot(number, site), max_bytes=9, request="x")
    held.grants.close_slot(slot(2))
    before = held.grants.rung()
    assert sorted(held.grants.close_training("t"), key=str) == [slot(1), slot(1, "south")]
    after = held.grants.rung()
    assert {bell for bell in after if after[bell] > before.get(bell, 0)} == {"north", "south"}
    assert held.grants.close_training("t") == []
