"""Sites that answer when a test says so, and a training whose rounds are collected without Prefect."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from components.dispatch import InitialModel, Preparation
from components.exchange.store import FolderStore
from components.federation import plan_round, slot_of
from components.gateway.claims import ClaimState
from components.journal import Journal
from components.ledger import TrainingLedger
from components.rounds import Answer, ItemCounts, Order, ServerState, UpdateManifest
from components.strategies import FedAvg
from flows.collecting import Collection
from flows.progress import Watcher
from flows.session import Session
from tests.references.tiny_study import tiny_study

SITES = ["east", "north", "west"]


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@dataclass
class Ward:
    """Sites that answer when the test says so, in place of a dispatcher and of what is known of hospitals."""

    store: FolderStore
    asked: list[tuple[Order, Future[Answer]]] = field(default_factory=list)
    silent: dict[str, float] = field(default_factory=dict)
    claims: dict[str, ClaimState] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    withdrawn: list[Order] = field(default_factory=list)

    def submit(self, order: Order) -> Future[Answer]:
        future: Future[Answer] = Future()
        self.asked.append((order, future))
        return future

    def say(self, number: int, text: str) -> None:
        self.said.append(text)

    def silent_s(self, site: str) -> float:
        return self.silent.get(site, 0.0)

    def claim(self, order: Order) -> ClaimState:
        return self.claims.get(order.site, "held")

    def estimate_s(self, site: str) -> float | None:
        return None

    def speaks_otherwise(self, site: str) -> str:
        return ""

    def withdraw(self, order: Order) -> None:
        self.withdrawn.append(order)

    def deliver(self, site: str, value: float, which: int = -1) -> None:
        """Answer the last order of a site (or an earlier one) as one that has trained."""
        order, future = [pair for pair in self.asked if pair[0].site == site][which]
        written = self.store.put_update(slot_of(order.plan, site), {"w": torch.tensor([value])})
        manifest = UpdateManifest(
            weights_digest=written.weights_digest, file_sha256=written.sha256, bytes=written.bytes, weight=4.0,
            steps=1, loss_sum=1.0,
        )  # fmt: skip
        answer = Answer(
            kind="train", site=site, round=order.plan.round, nonce=order.nonce, status="done", update=manifest
        )
        self.store.submit(slot_of(order.plan, site), answer)
        future.set_result(answer)

    def decline(self, site: str, status: str, stage: str = "train") -> None:
        order, future = [pair for pair in self.asked if pair[0].site == site][-1]
        future.set_result(Answer.model_validate({
            "kind": "train", "site": site, "round": order.plan.round, "nonce": order.nonce, "status": status,
            "stage": stage, "reason": "no room",
        }))  # fmt: skip


class Training:
    """A training whose rounds are collected without Prefect."""

    def __init__(self, folder: Path, *, federated: bool = True, **rounds: Any) -> None:
        self.store = FolderStore(folder / "store")
        self.ward = Ward(self.store)
        weights = {"w": torch.zeros(1)}
        initial = InitialModel(
            weights_digest=self.store.put_weights(weights), statistics=[], normalisation=[], parameters=1
        )
        items = ItemCounts(expected=9, usable=9, quarantined=0)
        ready = {site: Preparation(site=site, ready=True, items=items) for site in SITES}
        study = tiny_study(rounds=rounds)
        ward: Any = self.ward
        self.session = Session(
            study=study, strategy=FedAvg(), ledger=TrainingLedger("t", study.digest, {}, initial, ready),
            folder=folder, store=self.store, journal=Journal.open(folder / "journal.jsonl"), dispatcher=ward,
            recorder=ward, watcher=Watcher(), hospitals=ward if federated else None,
        )  # fmt: skip

    def open(self, number: int = 1) -> Collection:
        """Plan a round, whatever became of the one before, and ask its sites."""
        state = ServerState(number - 1, 0, {"w": torch.full((1,), float(number))})
        plan = plan_round(
            self.session.study, FedAvg(), state, training="t", roster=SITES,
            base_digest=self.store.put_weights(state.weights),
        )  # fmt: skip
        self.session.record("round_planned", round=number, plan=plan.model_dump(mode="json"))
        return Collection(self.session, number, state)

    def events(self, event: str) -> list[dict[str, Any]]:
        return [dict(entry.data) for entry in self.session.journal.find(event)]


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)
