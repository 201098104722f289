"""Files of the coordinator's store that were damaged where they lie: noticed, mended from what is there, never used."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from components.errors import StorageError
from components.federation import save_state, slot_of, updates_of
from components.rounds import Answer, ServerState
from flows import collecting
from flows.collecting import Collection
from tests.flows.test_collecting import SITES, Training, collect, in_loop, quick, until

__all__ = ["quick"]


def flip(path: Path) -> None:
    """Change the last byte of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


async def received(training: Training) -> ServerState:
    """Have a round collected; return the state it started from."""
    state = ServerState(0, 0, {"w": torch.full((1,), 1.0)})
    collecting_it = asyncio.create_task(collect(training.open()))
    await asyncio.sleep(0.02)
    for site in SITES:
        training.ward.deliver(site, 2.0)
    await collecting_it
    return state


@pytest.mark.usefixtures("quick")
@in_loop
async def test_an_update_that_is_damaged_before_a_resume_is_asked_for_again(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=3)
    state, item = await received(training), training.session.ledger.rounds[1]
    manifest = item.received["north"].update
    assert manifest is not None
    flip(training.store.update_path(slot_of(item.plan, "north"), manifest.file_sha256))
    before = len(training.ward.asked)

    resumed = asyncio.create_task(collect(Collection(training.session, 1, state)))
    await until(lambda: len(training.ward.asked) > before)
    again = training.ward.asked[-1][0]
    assert (again.site, again.plan.attempt) == ("north", 2)
    training.ward.deliver("north", 2.0)
    assert [type(outcome) for outcome in await resumed] == [Answer]

    (lost,) = training.events("update_lost")
    assert (lost["site"], lost["round"]) == ("north", 1)
    assert item.took_part == SITES
    assert len(list(updates_of(item.used_plans, item.used_answers, training.store))) == 3


@pytest.mark.usefixtures("quick")
@in_loop
async def test_weights_that_a_site_could_not_use_are_mended_before_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "AGAIN_FIRST_S", 0.05)
    training = Training(tmp_path, quorum=3)
    ward, collecting_it = training.ward, asyncio.create_task(collect(training.open()))
    await asyncio.sleep(0.02)
    digest = training.session.ledger.rounds[1].plan.base_digest
    flip(training.store.path(digest))
    for site in SITES[:2]:
        ward.deliver(site, 1.0)
    ward.decline("west", "refused")
    await until(lambda: len(ward.asked) == 4)
    assert float(training.store.get(digest)["w"]) == 1.0
    ward.deliver("west", 1.0)
    await collecting_it
    assert [mended["weights"] for mended in training.events("weights_mended")] == [digest]


@in_loop
async def test_aggregated_weights_that_are_damaged_are_made_again_of_their_updates(tmp_path: Path) -> None:
    training = Training(tmp_path, quorum=3)
    session, _ = training.session, await received(training)
    item = session.ledger.rounds[1]
    state = session.strategy.aggregate(
        session.state_after(0), updates_of(item.used_plans, item.used_answers, training.store)
    )
    ref = save_state(training.store, state)
    session.record("aggregated", round=1, state=ref.model_dump(mode="json"), took_part=item.took_part)

    flip(training.store.path(ref.weights))
    assert float(session.state_after(1).weights["w"]) == 2.0
    training.store.path(ref.weights).unlink()
    assert float(session.state_after(1).weights["w"]) == 2.0
    assert [mended["weights"] for mended in training.events("weights_mended")] == [ref.weights] * 2


@in_loop
async def test_what_cannot_be_made_again_is_told(tmp_path: Path) -> None:
    """The round's updates were swept, or damaged as well."""
    training = Training(tmp_path, quorum=3)
    session, _ = training.session, await received(training)
    item = session.ledger.rounds[1]
    ref = save_state(training.store, ServerState(1, 1, {"w": torch.full((1,), 7.0)}))  # other updates gave it
    session.record("aggregated", round=1, state=ref.model_dump(mode="json"), took_part=item.took_part)
    flip(training.store.path(ref.weights))
    with pytest.raises(StorageError, match=f"weights {ref.weights} in the store are damaged.*from a backup"):
        session.state_after(1)
    for path in (training.store.root / "slots").rglob("*.safetensors"):
        flip(path)
    with pytest.raises(StorageError, match="from a backup"):
        session.state_after(1)
    assert training.events("weights_mended") == []
