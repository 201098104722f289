"""Claims: what a site has taken up is known, and whether it is still there."""

import time
from collections.abc import Iterator

import httpx
import pytest

from components.gateway.claims import CLAIM_S, HUNG_UP_S, Claims
from components.gateway.records import Activity, SlotKey
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Build, Gate, until

SLOT = SlotKey(training="t", round=1, attempt=1, site="north")


@pytest.fixture(scope="module")
def gate(build: Build) -> Gate:
    return build(hold_s=5.0)


@pytest.fixture(scope="module")
def folder(gate: Gate) -> SiteFolder:
    return gate.enrol("north")


@pytest.fixture
def claims(gate: Gate) -> Iterator[Claims]:
    gate.grants.open_slot(SLOT, max_bytes=9, request="train")
    yield Claims(gate.database)
    gate.grants.close_training("t")


def ask(gate: Gate, folder: SiteFolder, **query: int) -> None:
    with gate.http(folder) as client:
        client.get("/v1/work", params=query).raise_for_status()


def test_work_is_claimed_when_it_is_handed_out(gate: Gate, folder: SiteFolder, claims: Claims) -> None:
    assert claims.all() == {}
    ask(gate, folder)
    assert claims.all()[SLOT].life_s == CLAIM_S


def test_what_another_is_asked_is_not_claimed(gate: Gate, folder: SiteFolder, claims: Claims) -> None:
    gate.grants.open_slot(SLOT.model_copy(update={"site": "south"}), max_bytes=9, request="train")
    ask(gate, folder)
    assert list(claims.all()) == [SLOT]


def test_a_sign_of_life_renews_a_claim(gate: Gate, folder: SiteFolder, claims: Claims) -> None:
    ask(gate, folder)
    before = claims.all()[SLOT]
    time.sleep(0.01)
    with gate.client(folder) as client:
        client.heartbeat(Activity(state="idle"))
    assert claims.all()[SLOT].renewed_at > before.renewed_at


def test_who_hangs_up_has_a_claim_for_a_shorter_time_until_it_is_heard_of(
    gate: Gate, folder: SiteFolder, claims: Claims
) -> None:
    with gate.http(folder) as client:
        rung = client.get("/v1/work").json()["rung"]
        assert claims.all()[SLOT].life_s == CLAIM_S
        with pytest.raises(httpx.ReadTimeout):
            client.get("/v1/work", params={"rung": rung}, timeout=0.5)  # hangs up while its question is held
        until(lambda: claims.all()[SLOT].life_s == HUNG_UP_S)
    with gate.client(folder) as living:
        living.heartbeat(Activity(state="idle"))
    assert claims.all()[SLOT].life_s == CLAIM_S


def test_an_answer_ends_no_claim_and_the_end_of_a_slot_does(gate: Gate, folder: SiteFolder, claims: Claims) -> None:
    ask(gate, folder)
    gate.grants.close_slot(SLOT)
    assert claims.all() == {}
