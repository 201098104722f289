"""Collecting a round's updates: whom it waits for, whom it asks again, and what becomes of those who come late."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from components.errors import QuorumError, SeenRoundError, SiteError, StorageError
from components.federation import updates_of
from components.rounds import SEEN, Answer
from flows import collecting
from flows.collecting import Collection
from tests.flows.collected import SITES, Training, in_loop, until


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that the tests do not wait for a second each."""
    monkeypatch.setattr(collecting, "LOOK_EVERY_S", 0.02)


async def collect(collection: Collection) -> list[Any]:
    """Follow every site until the round closes, as `flows.driven_round` does."""
    following = [asyncio.create_task(collection.follow(site)) for site in collection.sites]
    try:
        await collection.until_closed()
    finally:
        outcomes = await asyncio.gather(*following, return_exceptions=True)
    return outcomes


@in_loop
async def test_a_round_closes_as_soon_as_everybody_has_answered(tmp_path: Path) -> None:
    training = Training(tmp_path)
    collecting_it = asyncio.create_task(collect(training.open()))
    await asyncio.sleep(0.05)
    for site in SITES:
        training.ward.deliver(site, 1.0)
    assert [type(outcome) for outcome in await collecting_it] == [Answer] * 3
    assert training.session.ledger.rounds[1].took_part == SITES
    assert training.events("update_received")[0]["took_s"] >= 0.05


@in_loop
async def test_a_simulation_closes_at_its_deadline_with_the_quorum_and_says_who_was_missing(tmp_path: Path) -> None:
    training = Training(tmp_path, federated=False, quorum=2, deadline_s=0.3)
    collection = training.open()
    for site in SITES[:2]:
        training.ward.deliver(site, 1.0)
    outcomes = await collect(collection)
    assert isinstance(outcomes[2], SiteError)
    assert training.session.ledger.rounds[1].missing == {"west": "no answer within 0 s"}


@in_loop
async def test_a_simulation_below_its_quorum_ends(tmp_path: Path) -> None:
    training = Training(tmp_path, federated=False, quorum=3, deadline_s=0.2)
    collection = training.open()
    training.ward.deliver("east", 1.0)
    with pytest.raises(QuorumError, match="round 1 has 1 of the 3 updates it needs"):
        await collect(collection)


@pytest.mark.usefixtures("quick")
@in_loop
async def test_a_federation_below_its_quorum_waits_says_for_whom_and_goes_on_by_itself(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=3, deadline_s=0.1)
    ward, collecting_it = training.ward, asyncio.create_task(collect(training.open()))
    for site in SITES[:2]:
        ward.deliver(site, 1.0)
    ward.silent["west"] = 95.0
    await until(lambda: ward.said)
    assert ward.said[0].startswith("waiting for quorum: 2 of the 3 updates it needs, missing: west: not heard of for")
    assert training.events("waiting")[0]["reason"] == ward.said[0]
    ward.silent.clear()
    ward.deliver("west", 1.0)
    assert [type(outcome) for outcome in await collecting_it] == [Answer] * 3
    assert ward.said[-1] == ""


@pytest.mark.usefixtures("quick")
@in_loop
async def test_a_round_without_a_required_site_waits_although_others_are_enough(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=1, required=["west"], deadline_s=0.1)
    collecting_it = asyncio.create_task(collect(training.open()))
    for site in SITES[:2]:
        training.ward.deliver(site, 1.0)
    await until(lambda: training.ward.said)
    assert "and west among them" in training.ward.said[0]
    training.ward.deliver("west", 1.0)
    await collecting_it


@pytest.mark.usefixtures("quick")
@in_loop
async def test_a_site_that_failed_is_asked_once_more_at_once_and_one_that_refused_is_not(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=2, deadline_s=3600)
    ward, collecting_it = training.ward, asyncio.create_task(collect(training.open()))
    await asyncio.sleep(0.02)
    ward.decline("east", "failed")
    ward.decline("west", "refused")
    await until(lambda: len(ward.asked) == 4)
    again = ward.asked[-1][0]
    assert (again.site, again.plan.attempt) == ("east", 2)
    assert again.nonce != ward.asked[0][0].nonce
    ward.deliver("east", 1.0)
    ward.deliver("north", 1.0)
    await collecting_it
    item = training.session.ledger.rounds[1]
    assert (item.took_part, item.missing) == (
        ["east", "north"],
        {"west": "west refused the order at 'train': 'no room'"},
    )
    assert len(list(updates_of(item.used_plans, item.used_answers, training.store))) == 2


@pytest.mark.usefixtures("quick")
@in_loop
async def test_a_round_below_its_quorum_asks_again_whoever_could_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "AGAIN_FIRST_S", 0.05)
    training = Training(tmp_path, quorum=3)
    ward, collecting_it = training.ward, asyncio.create_task(collect(training.open()))
    await asyncio.sleep(0.02)
    for site in SITES[:2]:
        ward.deliver(site, 1.0)
    ward.decline("west", "refused")
    await until(lambda: len(ward.asked) == 4)
    ward.deliver("west", 1.0)
    assert [type(outcome) for outcome in await collecting_it] == [Answer] * 3


@pytest.mark.usefixtures("quick")
@in_loop
async def test_what_is_late_is_withdrawn_and_dropped_by_default(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=2, deadline_s=0.1)
    collection = training.open()
    for site in SITES[:2]:
        training.ward.deliver(site, 1.0)
    await collect(collection)
    assert [(order.site, order.plan.round) for order in training.ward.withdrawn] == [("west", 1)]


@pytest.mark.usefixtures("quick")
@in_loop
async def test_a_late_update_is_used_in_the_next_round_with_a_discount_if_the_study_says_so(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=2, deadline_s=0.2, late="discount")
    first = training.open(1)
    for site in SITES[:2]:
        training.ward.deliver(site, 3.0)
    await collect(first)
    assert training.ward.withdrawn == []
    second = training.open(2)
    for site in SITES[:2]:
        training.ward.deliver(site, 5.0)
    training.ward.deliver("west", 1.5, which=0)  # the answer to the first round; of the second there is none
    await collect(second)
    item = training.session.ledger.rounds[2]
    assert item.late["west"][0].round == 1
    updates = {update.site: update for update in updates_of(item.used_plans, item.used_answers, training.store)}
    learned = 1.5 - 1.0  # discounted, and added to what is current
    assert updates["west"].weights["w"].item() == pytest.approx(2.0 + learned / math.sqrt(2))
    assert updates["west"].weight == 4.0
    assert {update.round for update in updates.values()} == {2}


@pytest.mark.usefixtures("quick")
@in_loop
async def test_a_late_update_that_never_comes_is_let_go_and_recorded(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=2, deadline_s=0.1, late="discount")
    for number in (1, 2):
        collection = training.open(number)
        for site in SITES[:2]:
            training.ward.deliver(site, 1.0)
        await collect(collection)
    assert [(e["site"], e["of"], e["reason"]) for e in training.events("late_dropped")] == [
        ("west", 1, "not there when the next round closed")
    ]


@in_loop
async def test_an_update_that_changed_too_much_is_refused_on_arrival_too(tmp_path: Path) -> None:
    training = Training(tmp_path, federated=False, quorum=2, max_change=5.0)
    collection = training.open()
    for site, value in zip(SITES, (2.0, 4.0, 7.0), strict=True):  # the round starts from 1
        training.ward.deliver(site, value)
    await collect(collection)
    assert training.session.ledger.rounds[1].took_part == ["east", "north"]
    assert "norm 6" in training.session.ledger.rounds[1].missing["west"]


@in_loop
async def test_a_coordinator_that_cannot_write_ends_the_round_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path, federated=False, quorum=2, deadline_s=3600)
    collection = training.open()

    def full(event: str, **_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(training.session, "record", full)
    training.ward.deliver("east", 1.0)
    with pytest.raises(StorageError, match="the disk is full"):
        await collect(collection)


@in_loop
async def test_a_deadline_is_learned_from_what_a_site_took_and_never_beyond_the_study_s(tmp_path: Path) -> None:
    training = Training(tmp_path, deadline_s=400)
    assert training.session.deadline_s("east", 400) == 400
    for number, took_s in enumerate((10.0, 20.0, 15.0), 1):
        training.open(number)
        training.session.ledger.rounds[number].durations["east"] = took_s
    assert training.session.deadline_s("east", 400) == 60.0
    training.session.ledger.rounds[3].durations["east"] = 1000.0
    assert training.session.deadline_s("east", 400) == 400


@pytest.mark.usefixtures("quick")
@in_loop
async def test_sites_that_have_seen_later_rounds_end_a_training_that_cannot_do_without_them(tmp_path: Path) -> None:
    """Nobody comes back who could change that: a journal older than those of the sites stays so."""
    training = Training(tmp_path, quorum=2)
    collecting_it = asyncio.create_task(collect(training.open()))
    training.ward.decline("east", "refused", stage=SEEN)
    await asyncio.sleep(0.1)
    assert not collecting_it.done()
    training.ward.decline("west", "refused", stage=SEEN)
    with pytest.raises(SeenRoundError, match=r"^east, west refuse round 1 of t: .*--fresh.*accept-older t "):
        await collecting_it
    assert {found["site"] for found in training.events("update_refused")} >= {"east", "west"}


@pytest.mark.usefixtures("quick")
@in_loop
async def test_a_round_goes_on_without_a_site_that_has_seen_later_ones_if_the_others_are_enough(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=2, deadline_s=30)
    collecting_it = asyncio.create_task(collect(training.open()))
    training.ward.decline("east", "refused", stage=SEEN)
    for site in SITES[1:]:
        training.ward.deliver(site, 1.0)
    await collecting_it
    assert training.session.ledger.rounds[1].took_part == SITES[1:]
    assert SEEN in training.session.ledger.rounds[1].missing["east"]


@pytest.mark.usefixtures("quick")
@in_loop
async def test_a_required_site_that_has_seen_later_rounds_ends_a_training(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=1, required=["west"])
    collecting_it = asyncio.create_task(collect(training.open()))
    training.ward.decline("west", "refused", stage=SEEN)
    with pytest.raises(SeenRoundError, match="west refuse round 1"):
        await collecting_it
