from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.rounds import Update
from components.strategies import FedAvg, FedBN, FedProx, Strategy
from components.weights import digest
from tests.references import naive_strategies as naive
from tests.references.naive_strategies import Array

AVERAGING = [FedAvg(), FedProx(), FedBN()]
VALUES = st.floats(-(2.0**100), 2.0**100, width=32)
ARRAYS = hnp.arrays(np.float32, (3, 2), elements=VALUES)
SAMPLES = st.integers(1, 2**29)


def updates(arrays: list[Array], samples: list[int]) -> list[Update]:
    sent = [{"w": torch.from_numpy(array.copy())} for array in arrays]
    return [Update(f"site{k:02}", 1, one, weight=n) for k, (one, n) in enumerate(zip(sent, samples, strict=True))]


@pytest.mark.parametrize("strategy", AVERAGING, ids=lambda strategy: type(strategy).__name__)
def test_three_sites_worked_by_hand(strategy: Strategy) -> None:
    state = strategy.init({"w": torch.tensor([100.0, 100.0])})
    sent = [
        Update("a", 1, {"w": torch.tensor([1.0, -2.0])}, weight=60),
        Update("b", 1, {"w": torch.tensor([2.0, 4.0])}, weight=25),
        Update("c", 1, {"w": torch.tensor([6.0, 0.0])}, weight=15),
    ]
    # (60*1 + 25*2 + 15*6) / 100 = 2.0; (-120 + 100 + 0) / 100 = -0.2
    assert torch.equal(strategy.aggregate(state, sent).weights["w"], torch.tensor([2.0, -0.2]))


@given(array=hnp.arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=False)), samples=SAMPLES)
def test_one_site_is_the_identity_bit_for_bit(array: Array, samples: Any) -> None:
    sent = updates([array], [samples])
    after = FedAvg().aggregate(FedAvg().init({"w": torch.zeros(5)}), sent)
    assert digest(after.weights) == digest(sent[0].weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_site_is_the_identity_in_every_exchanged_dtype(dtype: torch.dtype) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    after = FedAvg().aggregate(FedAvg().init({"w": values * 0}), [Update("a", 1, {"w": values}, weight=4708)])
    assert digest(after.weights) == digest({"w": values})


@given(data=st.data(), sites=st.integers(1, 6))
def test_the_mean_agrees_with_a_naive_one(data: Any, sites: Any) -> None:
    arrays = [data.draw(ARRAYS) for _ in range(sites)]
    samples = [data.draw(st.integers(1, 10_000)) for _ in range(sites)]
    after = FedAvg().aggregate(FedAvg().init({"w": torch.zeros(3, 2)}), updates(arrays, samples))
    expected = naive.mean([{"w": array} for array in arrays], samples)["w"]
    scale = max(np.abs(array).max() for array in arrays)
    np.testing.assert_allclose(after.weights["w"].numpy(), expected, rtol=1e-7, atol=1e-12 * scale)


@given(arrays=st.lists(ARRAYS, min_size=2, max_size=5), data=st.data())
def test_the_order_of_arrival_changes_nothing_bit_for_bit(arrays: list[Array], data: Any) -> None:
    sent = updates(arrays, data.draw(st.lists(SAMPLES, min_size=len(arrays), max_size=len(arrays))))
    state = FedAvg().init({"w": torch.zeros(3, 2)})
    arrived = {one.site: one for one in data.draw(st.permutations(sent))}
    streamed = FedAvg().aggregate(state, (arrived[site] for site in sorted(arrived)))
    assert digest(FedAvg().aggregate(state, sent).weights) == digest(streamed.weights)


@given(array=ARRAYS, samples=st.lists(st.integers(1, 2**20), min_size=2, max_size=5))
def test_sites_that_agree_change_nothing(array: Array, samples: Any) -> None:
    sent = updates([array] * len(samples), samples)
    after = FedAvg().aggregate(FedAvg().init({"w": torch.zeros(3, 2)}), sent)
    assert torch.equal(after.weights["w"], sent[0].weights["w"])


@given(arrays=st.lists(ARRAYS, min_size=2, max_size=4), power=st.integers(-20, 20))
def test_the_mean_scales_with_the_weights(arrays: list[Array], power: int) -> None:
    state = FedAvg().init({"w": torch.zeros(3, 2, dtype=torch.float64)})
    plain = [Update(str(k), 1, {"w": torch.from_numpy(a).double()}, weight=k + 1) for k, a in enumerate(arrays)]
    scaled = [Update(u.site, 1, {"w": u.weights["w"] * 2.0**power}, weight=u.weight) for u in plain]
    once, twice = (FedAvg().aggregate(state, sent).weights["w"] for sent in (plain, scaled))
    assert torch.equal(once * 2.0**power, twice)


def test_fedavg_asks_for_nothing() -> None:
    assert FedAvg().instructions(FedAvg().init({"w": torch.zeros(1)})) == {}
