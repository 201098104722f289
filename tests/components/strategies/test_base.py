import weakref
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch

from components.rounds import ServerState, Update
from components.strategies import STRATEGIES, Strategy
from components.strategies.base import first_state, weighted_mean
from components.study import StrategyName
from components.weights import Weights


def update(site: str, value: float, *, weight: float = 1.0, round_number: int = 1) -> Update:
    return Update(site, round_number, {"w": torch.tensor([float(value)])}, weight=weight)


@pytest.fixture(params=sorted(STRATEGIES.keys() - {"HistogramBoosting"}))  # which has a module of its own
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return STRATEGIES[request.param]()


def test_the_table_has_exactly_the_names_a_study_may_give() -> None:
    assert set(STRATEGIES) == set(StrategyName.__args__)
    assert all(cls.__name__ == name for name, cls in STRATEGIES.items())


def test_every_strategy_is_a_frozen_strategy(strategy: Strategy) -> None:
    assert isinstance(strategy, Strategy)
    assert strategy.needs == "sum"
    with pytest.raises(FrozenInstanceError):
        setattr(strategy, fields(strategy)[0].name, 1)


def test_only_personal_strategies_keep_entries_at_the_sites() -> None:
    personal = {name: cls.personal for name, cls in STRATEGIES.items() if cls.personal != "none"}
    assert personal == {"FedBN": "normalisation", "FedPer": "output"}


def test_no_update_is_refused(strategy: Strategy) -> None:
    with pytest.raises(ValueError, match="at least one update"):
        strategy.aggregate(strategy.init({"w": torch.zeros(1)}), iter(()))


@pytest.mark.parametrize(
    ("weights", "statistics", "message"),
    [
        ({}, frozenset(), "at least one entry"),
        ({"n": torch.tensor(3)}, frozenset(), "'n' is torch.int64"),
        ({"w": torch.zeros(1)}, frozenset({"mean"}), r"\['mean'\]"),
    ],
)
def test_weights_that_cannot_be_federated_are_refused(
    strategy: Strategy, weights: Weights, statistics: frozenset[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        strategy.init(weights, statistics)


def test_the_first_state_does_not_change_with_the_module_it_came_from(strategy: Strategy) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    state = strategy.init({"w": parameter})
    with torch.no_grad():
        parameter += 1
    assert state.weights["w"].item() == 0
    assert not state.weights["w"].requires_grad


def test_aggregate_changes_neither_state_nor_updates(strategy: Strategy) -> None:
    state = strategy.init({"w": torch.tensor([1.0])})
    sent = [update("a", 3), update("b", 5)]
    after = strategy.aggregate(state, sent)
    assert after.weights["w"].item() != 1
    assert state.weights["w"].item() == 1
    assert [one.weights["w"].item() for one in sent] == [3, 5]
    assert (state.round, after.round) == (0, 1)


def test_updates_must_have_the_entries_and_shapes_of_the_model(strategy: Strategy) -> None:
    state = strategy.init({"w": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"does not have: .*'x'"):
        strategy.aggregate(state, [Update("a", 1, {"w": torch.zeros(1), "x": torch.zeros(1)}, weight=1)])
    with pytest.raises(ValueError, match=r"'w' has shape \(2,\), the global model \(1,\)"):
        strategy.aggregate(state, [Update("a", 1, {"w": torch.zeros(2)}, weight=1)])


def test_missing_entries_are_refused_unless_they_are_personal(strategy: Strategy) -> None:
    state = strategy.init({"w": torch.zeros(1), "x": torch.zeros(1)})
    if strategy.personal == "none":
        with pytest.raises(ValueError, match=r"lack entries of the global model: \['x'\]"):
            strategy.aggregate(state, [update("a", 1)])
    else:
        assert strategy.aggregate(state, [update("a", 1)]).weights["x"].item() == 0


@pytest.mark.parametrize("sites", [["b", "a"], ["a", "a"]])
def test_updates_out_of_the_order_of_site_names_are_refused(sites: Any) -> None:
    with pytest.raises(ValueError, match="order of site names"):
        weighted_mean([update(site, 1) for site in sites], "samples")


def test_updates_of_different_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="must be of one round, 'b' has 2, not 1"):
        weighted_mean([update("a", 1), update("b", 1, round_number=2)], "samples")


def test_each_update_is_let_go_before_the_next_is_asked_for() -> None:
    alive = []

    def stream() -> Iterator[Update]:
        for site in "abcd":
            assert not any(reference() is not None for reference in alive)
            weights = {"w": torch.ones(1)}
            alive.append(weakref.ref(weights["w"]))
            yield Update(site, 1, weights, weight=1)
            del weights

    weighted_mean(stream(), "samples")
    assert len(alive) == 4


def test_uniform_weighting_ignores_samples() -> None:
    sent = [update("a", 0, weight=1), update("b", 4, weight=3)]
    assert weighted_mean(sent, "samples").entry("w").item() == 3
    assert weighted_mean(sent, "uniform").entry("w").item() == 2


def test_the_result_has_the_dtype_of_the_model_whatever_the_updates_have(strategy: Strategy) -> None:
    state = strategy.init({"w": torch.zeros(1, dtype=torch.bfloat16)})
    after = strategy.aggregate(state, [update("a", 1)])
    assert after.weights["w"].dtype == torch.bfloat16


def test_a_state_keeps_what_a_strategy_does_not_touch() -> None:
    state = replace(first_state({"w": torch.zeros(1)}, frozenset()), step=7)
    after = STRATEGIES["FedAvg"]().aggregate(state, [update("a", 1)])
    assert isinstance(after, ServerState)
    assert after.step == 7
