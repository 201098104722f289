"""The dispatcher of a federation, with a real database and real slots: what becomes of answers that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from components.dispatch import Dispatcher
from components.errors import RefusedError
from components.federation import plan_round, training_order
from components.gateway.records import SlotKey
from components.rounds import Order, ServerState
from components.strategies import FedAvg
from flows import remote as module
from flows.remote import PUBLISHED, RemoteDispatcher
from flows.site_runs import SiteRuns
from tests.components.gateway.gates import until
from tests.flows.sides import Quiet, Side, open_side
from tests.references.tiny_study import STUDY, tiny_study


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    with open_side(tmp_path) as made:
        yield made


@pytest.fixture
def dispatcher(side: Side) -> Iterator[RemoteDispatcher]:
    made = RemoteDispatcher(tiny_study(), side, "prepare-1", cast(Dispatcher, Quiet()), cast(SiteRuns, Quiet()))
    yield made
    made.close()


def slot(site: str) -> SlotKey:
    return SlotKey(training="prepare-1", round=1, attempt=1, kind="prepare", site=site)


def deliver(side: Side, site: str, envelope: bytes) -> None:
    """Seal a slot, as the gateway does."""
    side.sealed.submit(slot(site), envelope, sealed_sha256=None, sealed_bytes=None)


def test_an_answer_that_is_refused_leaves_nothing_and_its_slot_is_closed(
    dispatcher: RemoteDispatcher, side: Side
) -> None:
    asked = dispatcher.prepare("north")
    until(lambda: side.grants.open_bytes(slot("north")))
    deliver(side, "north", b"no envelope")
    with pytest.raises(RefusedError):
        asked.result(20)
    until(lambda: side.grants.open_bytes(slot("north")) is None)
    until(lambda: not (side.sealed.root / slot("north").folder).exists())


def test_what_cannot_be_read_is_refused_and_keeps_nobody_else_s_from_being_read(
    dispatcher: RemoteDispatcher, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = module.read_signed

    def breaks(text: bytes) -> Any:
        if text == b"endless":
            raise RecursionError("maximum recursion depth exceeded")
        return read(text)

    monkeypatch.setattr(module, "read_signed", breaks)
    north, south = dispatcher.prepare("north"), dispatcher.prepare("south")
    until(lambda: side.grants.open_bytes(slot("south")))
    deliver(side, "north", b"endless")
    with pytest.raises(RefusedError, match=r"the answer of north cannot be read \(RecursionError\)"):
        north.result(20)
    deliver(side, "south", b"no envelope")
    with pytest.raises(RefusedError, match="signed"):
        south.result(20)


def order(side: Side, site: str, number: int) -> Order:
    """To train in a round that begins from weights of its own."""
    weights = {"w": torch.full((1,), float(number))}
    plan = plan_round(
        tiny_study(), FedAvg(), ServerState(number - 1, 0, weights), training="t", roster=["east", "north"],
        base_digest=side.store(STUDY).put_weights(weights),
    )  # fmt: skip
    return training_order(plan, site)


def test_weights_stay_readable_for_as_long_as_somebody_is_asked_to_begin_from_them(
    side: Side, dispatcher: RemoteDispatcher
) -> None:
    slow, orders = order(side, "north", 1), [order(side, "east", number) for number in range(2, 9)]
    dispatcher.submit(slow)
    for quick in orders:
        dispatcher.submit(quick)
        dispatcher.withdraw(quick)
    shared = {path.stem for path in (side.exchange / "objects").iterdir()}
    assert shared == {slow.weights_digest} | {quick.weights_digest for quick in orders[-PUBLISHED:]}
    dispatcher.withdraw(slow)
    dispatcher.submit(order(side, "east", 9))
    assert not (side.exchange / "objects" / f"{slow.weights_digest}.safetensors").exists()
