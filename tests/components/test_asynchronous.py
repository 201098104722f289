"""FedBuff's arithmetic: what an update counts that was made for an earlier round."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.assemble import build_strategy
from components.exchange.store import FolderStore
from components.federation import plan_round, slot_of, training_order, updates_of
from components.rounds import Answer, RoundPlan, ServerState, UpdateManifest
from components.weights import Weights
from tests.references.replayed import fedbuff
from tests.references.tiny_study import tiny_study

SITES = ["east", "north", "south", "west"]


class Versions:
    """Versions of a model, and sites that trained from some of them.

    Args:
        folder: Of the exchange.
        versions: The weights after each round; the first are those before round 1.
    """

    def __init__(self, folder: Path, versions: list[Weights]) -> None:
        self.store, self.versions = FolderStore(folder), versions
        self.plans: dict[str, RoundPlan] = {}
        self.answers: dict[str, Answer] = {}

    def plan(self, number: int) -> RoundPlan:
        """Of the round that begins from the version before it."""
        base = self.store.put_weights(self.versions[number - 1])
        study, state = tiny_study(), ServerState(number - 1, 0, self.versions[number - 1])
        return plan_round(study, build_strategy("FedAvg", {}), state, training="t", roster=SITES, base_digest=base)

    def deliver(self, site: str, number: int, trained: Weights, *, samples: float) -> None:
        """Act as a site that was asked in a round."""
        plan = self.plan(number)
        written = self.store.put_update(slot_of(plan, site), trained)
        manifest = UpdateManifest(
            weights_digest=written.weights_digest, file_sha256=written.sha256, bytes=written.bytes, weight=samples,
            steps=1, loss_sum=1.0,
        )  # fmt: skip
        nonce = training_order(plan, site).nonce
        self.plans[site] = plan
        self.answers[site] = Answer(kind="train", site=site, round=number, nonce=nonce, status="done", update=manifest)

    def aggregate(self, *, statistics: tuple[str, ...] = (), strategy: str = "FedAvg", **how: Any) -> Weights:
        """Make the next version of what was delivered."""
        number = len(self.versions)
        built = build_strategy(strategy, how)
        state = replace(built.init(self.versions[-1], frozenset(statistics)), round=number - 1)
        current = self.plan(number)
        updates = updates_of(self.plans, self.answers, self.store, current=current, statistics=statistics)
        return built.aggregate(state, updates).weights


def weights(*values: float) -> Weights:
    return {"w": torch.tensor(values)}


def test_what_a_site_learned_is_divided_by_the_root_of_one_and_its_staleness(tmp_path: Path) -> None:
    """By hand: 8 + (1 * 2 + 3 * 6 / 2) / 4, with a staleness of 0 and one of 3, whose root of 1 + 3 is 2."""
    versions = Versions(tmp_path, [weights(1.0), weights(2.0), weights(4.0), weights(8.0)])
    versions.deliver("east", 4, weights(8.0 + 2.0), samples=1)
    versions.deliver("west", 1, weights(1.0 + 6.0), samples=3)
    assert versions.aggregate()["w"].item() == 8.0 + (1 * 2.0 + 3 * 6.0 / 2) / 4


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_the_discount_counts_where_it_is_the_only_update_and_where_all_sites_count_the_same(
    tmp_path: Path, weighting: str
) -> None:
    versions = Versions(tmp_path, [weights(1.0), weights(2.0), weights(4.0), weights(8.0)])
    versions.deliver("west", 1, weights(1.0 + 6.0), samples=3)
    assert versions.aggregate(weighting=weighting)["w"].item() == 8.0 + 6.0 / 2


def test_a_server_optimiser_takes_the_discounted_mean_as_its_gradient(tmp_path: Path) -> None:
    versions = Versions(tmp_path, [weights(1.0), weights(2.0)])
    versions.deliver("west", 1, weights(1.0 + 3.0), samples=5)
    moved = versions.aggregate(strategy="FedAdam", server_learning_rate=0.5, momentum_decay=0.0,
                               second_moment_decay=0.0, adaptivity=0.1)["w"].item()  # fmt: skip
    change = 3.0 / math.sqrt(2)
    assert moved == pytest.approx(2.0 + 0.5 * change / (abs(change) + 0.1))


def test_an_average_of_data_never_leaves_the_range_of_the_two_it_is_made_of(tmp_path: Path) -> None:
    """As a difference, a variance that fell from 9 to 1 elsewhere would carry one of 2 below zero."""
    versions = Versions(tmp_path, [weights(9.0), weights(2.0)])
    versions.deliver("west", 1, weights(1.0), samples=5)
    assert versions.aggregate()["w"].item() < 0
    assert versions.aggregate(statistics=("w",))["w"].item() == pytest.approx(2.0 + (1.0 - 2.0) / math.sqrt(2))


numbers = st.floats(-8, 8, width=32)


@given(
    versions=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5),
    sites=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 500), numbers, numbers), min_size=1, max_size=4),
)
def test_an_aggregation_is_that_of_the_naive_reference_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, versions: list[tuple[float, float]], sites: list[Any]
) -> None:
    made = [{"conv": torch.tensor([a]), "running_var": torch.tensor([b])} for a, b in versions]
    found, naive = Versions(tmp_path_factory.mktemp("exchange"), made), []
    for site, (number, samples, a, b) in zip(SITES, sites, strict=False):
        begun, trained = min(number, len(made)), {"conv": torch.tensor([a]), "running_var": torch.tensor([b])}
        found.deliver(site, begun, trained, samples=samples)
        naive.append((float(samples), len(made) - begun, made[begun - 1], trained))
    expected = fedbuff(made[-1], naive, ["running_var"])
    after = found.aggregate(statistics=("running_var",))
    assert all(torch.equal(after[name], expected[name]) for name in expected)
