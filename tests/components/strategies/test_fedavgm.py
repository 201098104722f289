from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.rounds import Update
from components.strategies import FedAvg, FedAvgM
from tests.references import naive_strategies as naive


def test_two_rounds_worked_by_hand() -> None:
    strategy = FedAvgM(server_learning_rate=2.0, momentum=0.5)
    state = strategy.init({"w": torch.tensor([10.0])})
    state = strategy.aggregate(state, [Update("a", 1, {"w": torch.tensor([12.0])}, weight=1)])
    # change 2, v = 2, w = 10 + 2*2 = 14
    assert (state.slots["momentum"]["w"].item(), state.weights["w"].item()) == (2.0, 14.0)
    state = strategy.aggregate(state, [Update("a", 2, {"w": torch.tensor([11.0])}, weight=1)])
    # change -3, v = 0.5*2 - 3 = -2, w = 14 - 4 = 10
    assert (state.slots["momentum"]["w"].item(), state.weights["w"].item()) == (-2.0, 10.0)


@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=5))
def test_without_momentum_it_is_fedavg(values: list[float]) -> None:
    sent = [Update(str(k), 1, {"w": torch.tensor([value])}, weight=k + 1) for k, value in enumerate(values)]
    plain = FedAvg().aggregate(FedAvg().init({"w": torch.ones(1)}), sent).weights["w"]
    strategy = FedAvgM(momentum=0)
    torch.testing.assert_close(
        strategy.aggregate(strategy.init({"w": torch.ones(1)}), sent).weights["w"], plain, rtol=1.2e-7, atol=1e-12
    )


@given(
    rounds=st.lists(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=2), min_size=1, max_size=6),
    eta=st.floats(0.01, 2),
    beta=st.floats(0, 0.99),
)
def test_it_agrees_with_a_naive_one(rounds: Any, eta: float, beta: float) -> None:
    strategy = FedAvgM(server_learning_rate=eta, momentum=beta)
    state = strategy.init({"w": torch.zeros(1, dtype=torch.float64)})
    for number, (a, b) in enumerate(rounds, start=1):
        sent = [("a", a, 3), ("b", b, 1)]
        state = strategy.aggregate(
            state,
            [Update(site, number, {"w": torch.tensor([w], dtype=torch.float64)}, weight=n) for site, w, n in sent],
        )
    expected = naive.train(
        {"w": np.zeros(1)},
        [([{"w": np.array([a])}, {"w": np.array([b])}], [3, 1]) for a, b in rounds],
        step=lambda x, slots, delta: naive.fedavgm(x, slots, delta, eta=eta, beta=beta),
        start={"momentum": 0.0},
    )
    np.testing.assert_allclose(state.weights["w"].numpy(), expected["w"], rtol=1e-9, atol=1e-9)
