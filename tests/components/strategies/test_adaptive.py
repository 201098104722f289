import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.rounds import Update
from components.strategies import FedAdagrad, FedAdam, FedYogi
from tests.references import naive_strategies as naive

AdaptiveClass = type[FedAdagrad] | type[FedAdam] | type[FedYogi]


CLASSES = [FedAdagrad, FedAdam, FedYogi]
by_class = pytest.mark.parametrize("cls", CLASSES)


def one(number: int, value: float, dtype: torch.dtype = torch.float32) -> list[Update]:
    return [Update("a", number, {"w": torch.tensor([value], dtype=dtype)}, weight=5)]


def arguments(cls: AdaptiveClass, beta_1: float, beta_2: float) -> dict[str, float]:
    decays = {"momentum_decay": beta_1}
    return decays if cls is FedAdagrad else {**decays, "second_moment_decay": beta_2}


@pytest.mark.parametrize(
    ("cls", "second_moments"),
    [
        # tau = 0.5, so v starts at 0.25; changes 2 and then 1; beta_2 = 0.75
        (FedAdagrad, (0.25 + 4, 4.25 + 1)),
        (FedAdam, (0.75 * 0.25 + 0.25 * 4, 0.75 * 1.1875 + 0.25 * 1)),
        (FedYogi, (0.25 + 0.25 * 4, 1.25 - 0.25 * 1)),
    ],
)
def test_two_rounds_worked_by_hand(cls: AdaptiveClass, second_moments: tuple[float, float]) -> None:
    strategy = cls(server_learning_rate=0.1, adaptivity=0.5, **arguments(cls, 0.5, 0.75))
    state = strategy.init({"w": torch.zeros(1, dtype=torch.float64)})
    assert state.slots["second_moment"]["w"].item() == 0.25
    w = 0.0
    # m = 0.5*0 + 0.5*2 = 1, then 0.5*1 + 0.5*1 = 1
    for number, (change, v) in enumerate(zip((2.0, 1.0), second_moments, strict=True), start=1):
        state = strategy.aggregate(state, one(number, state.weights["w"].item() + change, torch.float64))
        w += 0.1 * 1.0 / (math.sqrt(v) + 0.5)
        assert state.slots["momentum"]["w"].item() == pytest.approx(1.0, rel=1e-12)
        assert state.slots["second_moment"]["w"].item() == pytest.approx(v, rel=1e-12)
        assert state.weights["w"].item() == pytest.approx(w, rel=1e-12)
    assert state.step == 2


@by_class
def test_the_first_step_has_no_correction_of_bias(cls: AdaptiveClass) -> None:
    """With it, a first change far above tau would move the weights by eta itself (Adam, Yogi)."""
    strategy = cls(server_learning_rate=1.0, adaptivity=1e-6, **arguments(cls, 0.9, 0.99))
    state = strategy.aggregate(strategy.init({"w": torch.zeros(1)}), one(1, 1.0))
    share = 1.0 if cls is FedAdagrad else 0.1  # sqrt of 1 and of 1 - 0.99
    assert state.weights["w"].item() == pytest.approx(0.1 / share, rel=1e-4)


@by_class
def test_sites_that_change_nothing_leave_the_weights(cls: AdaptiveClass) -> None:
    state = cls().aggregate(cls().init({"w": torch.tensor([3.0])}), one(1, 3.0))
    assert state.weights["w"].item() == 3


@by_class
@given(
    rounds=st.lists(st.lists(st.floats(-10, 10), min_size=2, max_size=2), min_size=1, max_size=6),
    beta_1=st.floats(0, 0.99),
    beta_2=st.floats(0, 0.999),
    eta=st.floats(1e-3, 1),
    tau=st.floats(1e-3, 1),
)
def test_it_agrees_with_a_naive_one(
    cls: AdaptiveClass, rounds: Any, beta_1: float, beta_2: float, eta: float, tau: float
) -> None:
    strategy = cls(server_learning_rate=eta, adaptivity=tau, **arguments(cls, beta_1, beta_2))
    state = strategy.init({"w": torch.zeros(1, dtype=torch.float64)})
    for number, (a, b) in enumerate(rounds, start=1):
        sent = [("a", a, 3), ("b", b, 1)]
        state = strategy.aggregate(
            state,
            [Update(site, number, {"w": torch.tensor([w], dtype=torch.float64)}, weight=n) for site, w, n in sent],
        )
    rule = {"kind": cls.__name__, "eta": eta, "beta_1": beta_1, "beta_2": beta_2, "tau": tau}
    expected = naive.train(
        {"w": np.zeros(1)},
        [([{"w": np.array([a])}, {"w": np.array([b])}], [3, 1]) for a, b in rounds],
        step=lambda x, slots, delta: naive.fedopt(x, slots, delta, **rule),
        start={"momentum": 0.0, "second_moment": tau**2},
    )
    np.testing.assert_allclose(state.weights["w"].numpy(), expected["w"], rtol=1e-6, atol=1e-9)


@by_class
@given(changes=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8))
def test_the_second_moment_never_falls_below_zero(cls: AdaptiveClass, changes: Any) -> None:
    strategy = cls()
    state = strategy.init({"w": torch.zeros(1)})
    for number, change in enumerate(changes, start=1):
        state = strategy.aggregate(state, one(number, state.weights["w"].item() + change))
        assert state.slots["second_moment"]["w"].item() >= 0
        assert math.isfinite(state.weights["w"].item())


@by_class
@given(changes=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=6))
def test_mirrored_changes_give_mirrored_weights(cls: AdaptiveClass, changes: Any) -> None:
    def course(sign: int) -> float:
        state = cls().init({"w": torch.zeros(1)})
        for number, change in enumerate(changes, start=1):
            state = cls().aggregate(state, one(number, state.weights["w"].item() + sign * change))
        return state.weights["w"].item()

    assert course(1) == -course(-1)
