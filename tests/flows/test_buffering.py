"""An asynchronous round: whose update closes it, who goes on, what is too old, and what a journal brings back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from components.errors import QuorumError
from components.journal import read
from components.rounds import ServerState
from flows import buffering
from flows.buffering import Buffer, drop_all_work
from flows.driven_round import open_round
from flows.evaluating import ask_the_free
from tests.flows.collected import SITES, Training, in_loop, until


class Buffered(Training):
    """A training whose rounds close with whoever comes first."""

    def __init__(self, folder: Path, *, federated: bool = True, **rounds: Any) -> None:
        super().__init__(folder, federated=federated, **{"mode": "async", **rounds})
        self.session.judges.update(SITES)  # nobody is a newcomer

    def begin(self, number: int) -> Buffer:
        """Open a round as a driver does; the state before it is as many ones."""
        if number > 1:
            weights = self.store.put_weights({"w": torch.full((1,), float(number))})
            state = {"round": number - 1, "step": 0, "weights": weights, "statistics": [], "slots": {}}
            self.session.record("aggregated", round=number - 1, state=state)
        return self.open_now(number)

    def open_now(self, number: int) -> Buffer:
        """Plan a round, or take it up as the journal has it."""
        opened = open_round(self.session, ServerState(number - 1, 0, {"w": torch.full((1,), float(number))}), number)
        assert isinstance(opened.collection, Buffer)
        return opened.collection

    def orders(self, number: int) -> list[tuple[str, int]]:
        """Who was asked with a round's plan, and for which attempt."""
        return [(o.site, o.plan.attempt) for o, _ in self.ward.asked if o.kind == "train" and o.plan.round == number]

    @property
    def at_work(self) -> dict[str, int]:
        return {site: plan.round for site, plan in self.session.ledger.in_flight.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that the tests do not wait for a second each."""
    monkeypatch.setattr(buffering, "LOOK_EVERY_S", 0.02)


async def closed(training: Buffered, number: int, *sites: str) -> None:
    """Go through a round in which these sites deliver, one after the other."""
    collection = training.begin(number)
    for site in sites:
        training.ward.deliver(site, number + 0.5)
        await asyncio.sleep(0)
    await collection.until_closed()


@in_loop
async def test_a_round_closes_with_the_first_that_deliver_and_the_others_go_on(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    collection = training.begin(1)
    following = {site: asyncio.create_task(collection.follow(site)) for site in SITES}
    closing = asyncio.create_task(collection.until_closed())
    for site in ("west", "east"):
        training.ward.deliver(site, 1.5)
    await closing
    assert training.session.ledger.rounds[1].took_part == ["east", "west"]
    assert await following["north"] is None
    assert training.at_work == {"north": 1}
    assert training.ward.withdrawn == []


@in_loop
async def test_who_has_delivered_begins_anew_and_an_update_counts_in_the_round_it_arrives_in(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    await closed(training, 1, "east", "west")
    await closed(training, 2, "west", "east")
    third = training.begin(3)
    assert training.orders(2) == training.orders(3) == [("east", 1), ("west", 1)]
    assert third.step("north") == "train at north, since round 1"
    training.ward.deliver("north", 1.5)
    training.ward.deliver("east", 3.5)
    await third.until_closed()
    item = training.session.ledger.rounds[3]
    assert item.staleness == {"east": 0, "north": 2}
    assert item.took_part == ["east", "north"]
    assert training.at_work == {"west": 3}


@in_loop
async def test_what_arrives_beyond_the_buffer_counts_in_the_next_round_first_come_first_served(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=1)
    first = training.begin(1)
    for site in ("west", "north", "east"):
        training.ward.deliver(site, 1.5)
        await asyncio.sleep(0.01)
    await first.until_closed()
    for number in (2, 3):
        await training.begin(number).until_closed()
    received = [(e["round"], e["site"]) for e in training.events("update_received")]
    assert received == [(1, "west"), (2, "north"), (3, "east")]


@in_loop
async def test_work_that_is_too_old_is_dropped_recorded_and_begun_anew(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=1, max_staleness=1)
    await closed(training, 1, "east")
    await closed(training, 2, "east")
    assert training.at_work == {"north": 1, "west": 1}
    training.begin(3)
    assert [(e["site"], e["of"], e["reason"]) for e in training.events("late_dropped")] == [
        (site, 1, "it began more than 1 versions ago") for site in ("north", "west")
    ]
    assert [(order.site, order.plan.round) for order in training.ward.withdrawn] == [("north", 1), ("west", 1)]
    assert training.orders(3) == [("east", 1), ("north", 1), ("west", 1)]


@in_loop
async def test_a_hospital_over_its_deadline_begins_anew_and_has_twice_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Buffered(tmp_path, buffer=1, deadline_s=10)
    deadlines = {"west": 0.05}
    monkeypatch.setattr(type(training.session), "deadline_s", lambda _, site, cap_s: deadlines.get(site, cap_s))
    await closed(training, 1, "east")
    second = asyncio.create_task(training.begin(2).until_closed())
    await until(lambda: ("west", 2) in training.orders(2))
    assert training.session.flights["west"].overdue == 2
    assert training.orders(2) == [("east", 1), ("west", 1), ("west", 2)]  # north goes on with round 1's weights
    refused = [e["reason"] for e in training.events("update_refused") if e["site"] == "west"]
    assert refused[0] == "no answer within 0 s"
    training.ward.deliver("west", 2.5)
    await second
    assert training.session.ledger.rounds[2].staleness == {"west": 0}


@in_loop
async def test_a_federation_with_too_few_hospitals_says_for_whom_it_waits_and_goes_on(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    collection = training.begin(1)
    training.ward.silent |= {"north": 95.0, "west": 95.0}
    training.ward.deliver("east", 1.5)
    closing = asyncio.create_task(collection.until_closed())
    await until(lambda: training.ward.said)
    assert training.ward.said[0].startswith(
        "waiting for quorum: 1 of the 2 updates it needs, missing: north, west: not"
    )
    training.ward.silent.clear()
    training.ward.deliver("west", 1.5)
    await closing
    assert training.ward.said[-1] == ""


@in_loop
async def test_a_simulation_with_too_few_sites_ends(tmp_path: Path) -> None:
    training = Buffered(tmp_path, federated=False, buffer=2)
    collection = training.begin(1)
    for site in ("east", "west"):
        training.ward.decline(site, "refused")
    with pytest.raises(QuorumError, match=r"0 of the 2 updates.*lower rounds.buffer in the study"):
        await collection.until_closed()


@in_loop
async def test_a_hospital_whose_work_failed_is_asked_once_more_at_once(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    collection = training.begin(1)
    closing = asyncio.create_task(collection.until_closed())
    training.ward.decline("west", "failed")
    await until(lambda: ("west", 2) in training.orders(1))
    for site in ("west", "east"):
        training.ward.deliver(site, 1.5)
    await closing
    assert training.session.ledger.rounds[1].used_plans["west"].attempt == 2


@in_loop
async def test_what_a_journal_says_is_asked_again_to_the_letter(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    await closed(training, 1, "east", "west")
    training.begin(2)
    training.ward.deliver("west", 2.5)
    asked = {order.site: order for order, _ in training.ward.asked}
    training.session.journal.close()

    again = Buffered(tmp_path, buffer=2)
    lines = read(tmp_path / "journal.jsonl")
    for entry in lines:
        again.session.ledger.apply(entry.event, entry.data)
    collection = again.open_now(2)
    assert again.at_work == {"east": 2, "north": 1, "west": 2}
    assert {order.site: order for order, _ in again.ward.asked} == {s: asked[s] for s in ("east", "north")}
    again.ward.deliver("north", 1.5)
    await collection.until_closed()  # west's update was in its slot
    assert again.session.ledger.rounds[2].staleness == {"north": 1, "west": 0}


@in_loop
async def test_an_update_that_was_received_and_is_damaged_after_a_restart_is_asked_for_again(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    await closed(training, 1, "east", "west")
    collection = training.begin(2)
    training.ward.deliver("north", 1.5)
    closing = asyncio.create_task(collection.until_closed())
    await until(lambda: training.events("update_received")[2:])
    closing.cancel()
    training.session.journal.close()
    (file,) = (training.store.root / "slots" / "t" / "1" / "1" / "north").glob("*.safetensors")
    file.write_bytes(b"damaged")

    again = Buffered(tmp_path, buffer=2)
    for entry in read(tmp_path / "journal.jsonl"):
        again.session.ledger.apply(entry.event, entry.data)
    assert again.session.ledger.rounds[2].took_part == ["north"]
    again.open_now(2)
    assert [e["site"] for e in again.events("update_lost")] == ["north"]
    assert again.at_work == {"east": 2, "north": 2, "west": 2}
    assert ("north", 1) in again.orders(2)


@in_loop
async def test_only_the_free_evaluate_and_all_work_ends_with_the_training(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    await closed(training, 1, "east", "west")
    training.begin(2)
    training.session.ledger.in_flight.pop("east")
    assert list(ask_the_free(training.session, 1)) == ["east"]
    drop_all_work(training.session)
    assert training.at_work == {}
    assert {order.site for order in training.ward.withdrawn} == {"north", "west"}


@in_loop
async def test_a_newcomer_evaluates_the_weights_it_begins_from_before_it_trains(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    training.session.judges.discard("north")
    training.begin(1)
    asked = [(order.kind, order.weights_digest) for order, _ in training.ward.asked if order.site == "north"]
    initial = training.session.ledger.initial.weights_digest
    assert asked == [("evaluate", initial), ("train", initial)]


@in_loop
async def test_a_site_that_left_is_let_go(tmp_path: Path) -> None:
    training = Buffered(tmp_path, buffer=2)
    await closed(training, 1, "east", "west")
    training.session.record("site_left", site="north", reason="it was revoked")
    training.begin(2)
    assert [order.site for order in training.ward.withdrawn] == ["north"]
    assert training.session.ledger.rounds[2].plan.roster == ["east", "west"]


@in_loop
async def test_a_synchronous_training_has_nobody_in_flight(tmp_path: Path) -> None:
    training = Training(tmp_path, federated=False, quorum=2, deadline_s=0.05)
    collection = training.open()
    training.ward.deliver("east", 1.0)
    training.session.record("asked_again", round=1, site="west", attempt=2)
    assert training.session.ledger.in_flight == {}
    with pytest.raises(QuorumError):
        await collection.until_closed()
