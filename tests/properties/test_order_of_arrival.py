"""Whoever comes first: the result is the same bit for bit."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.assemble import build_strategy
from components.exchange.store import FolderStore
from components.federation import plan_round, receive, slot_of, training_order, updates_of
from components.ledger import RoundLedger
from components.rounds import Answer, RoundPlan, ServerState, UpdateManifest
from components.weights import WeightedMean, Weights, digest
from tests.references.tiny_study import tiny_study

SITES = ["east", "north", "north-2", "south", "west"]
STRATEGIES = ["FedAvg", "FedProx", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi", "FedBN", "FedPer"]


def some_weights(seed: int) -> Weights:
    """Values of many magnitudes, so that adding in another order gives other last digits."""
    random = torch.Generator().manual_seed(seed)
    magnitude = 10.0 ** torch.randint(-12, 12, (256,), generator=random)
    return {"conv": torch.randn(256, generator=random) * magnitude}


def put_update(store: FolderStore, plan: RoundPlan, site: str) -> Answer:
    """Act as a site that has trained."""
    slot, number = slot_of(plan, site), SITES.index(site)
    written = store.put_update(slot, some_weights(number + 2))
    manifest = UpdateManifest(
        weights_digest=written.weights_digest, file_sha256=written.sha256, bytes=written.bytes,
        weight=float(3 + 7 * number), steps=1, loss_sum=1.0,
    )  # fmt: skip
    nonce = training_order(plan, site).nonce
    answer = Answer(kind="train", site=site, round=1, nonce=nonce, status="done", update=manifest)
    store.submit(slot, answer)
    return answer


class Round:
    """A first round in which all updates wait in their slots; every strategy makes the same plan of it."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.plan = plan_round(
            tiny_study(), build_strategy("FedAvg", {}), ServerState(0, 0, some_weights(1)),
            training="tiny", roster=SITES, base_digest="0" * 64,
        )  # fmt: skip
        self.answers = {site: put_update(self.store, self.plan, site) for site in SITES}

    def next_digests(self, name: str, arriving: Sequence[str]) -> list[str]:
        """Receive the updates in this order, aggregate, and return the digests of weights and slots."""
        strategy = build_strategy(name, {})
        state, ledger = strategy.init(some_weights(1)), RoundLedger(self.plan)
        for site in arriving:
            ledger.received[site] = receive(training_order(self.plan, site), self.answers[site], state, self.store)
        after = strategy.aggregate(state, updates_of(self.plan, ledger.received, self.store))
        return [digest(after.weights), *map(digest, after.slots.values())]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Round:
    return Round(tmp_path_factory.mktemp("exchange"))


@given(arriving=st.permutations(SITES), name=st.sampled_from(STRATEGIES))
def test_the_order_in_which_updates_arrive_changes_no_bit(opened: Round, arriving: list[str], name: str) -> None:
    assert opened.next_digests(name, arriving) == opened.next_digests(name, SITES)


def test_these_updates_would_show_another_order_of_adding() -> None:
    """Without the sorting the property above would fail: it is not true by itself."""
    means = []
    for sites in (SITES, SITES[::-1]):
        mean = WeightedMean()
        for site in sites:
            mean.add(some_weights(SITES.index(site) + 2), 1 + SITES.index(site))
        means.append(mean.entry("conv"))
    assert not torch.equal(*means)
