from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from components.exchange.store import FolderStore
from components.rounds import ServerState, Update
from components.strategies import FedAdagrad, FedAdam, FedAvgM, FedYogi, Strategy
from components.strategies.server_step import slot_like
from components.weights import Weights, digest

OPTIMISERS = [FedAvgM(), FedAdagrad(), FedAdam(), FedYogi()]
by_name = pytest.mark.parametrize("strategy", OPTIMISERS, ids=lambda strategy: type(strategy).__name__)


def send(site: str, generator: torch.Generator, *, round_number: int, like: Weights) -> Update:
    weights = {name: tensor + torch.randn(tensor.shape, generator=generator) for name, tensor in like.items()}
    return Update(site, round_number, weights, weight=1 + len(site))


def train(
    strategy: Strategy,
    state: ServerState,
    rounds: Iterable[int],
    between: Callable[[ServerState], ServerState] = lambda state: state,
) -> ServerState:
    for number in rounds:
        generator = torch.Generator().manual_seed(number)
        sent = [send(site, generator, round_number=number, like=state.weights) for site in ("a", "bb", "c")]
        state = between(strategy.aggregate(state, sent))
    return state


@pytest.fixture
def model() -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {"conv": torch.randn(4, 3, generator=generator), "var": torch.rand(4, generator=generator)}


@by_name
def test_statistics_are_plainly_averaged(strategy: Strategy, model: Weights) -> None:
    state = train(strategy, strategy.init(model, frozenset({"var"})), [1, 2])
    assert set(state.slots["momentum"]) == {"conv"}
    sent = [Update("a", 3, {**model, "var": torch.full((4,), 1.0)}, weight=1)]
    sent += [Update("b", 3, {**model, "var": torch.full((4,), 5.0)}, weight=3)]
    assert torch.equal(strategy.aggregate(state, sent).weights["var"], torch.full((4,), 4.0))


def test_an_optimiser_would_carry_a_running_variance_below_zero() -> None:
    """Why statistics must be kept from it: the variance of every site is above zero all the time."""
    strategy = FedAdam(server_learning_rate=0.1)
    lowest = {}
    for statistics in (frozenset(), frozenset({"var"})):
        state, course = strategy.init({"var": torch.tensor([1.0])}, statistics), []
        for number in range(1, 30):
            state = strategy.aggregate(state, [Update("a", number, {"var": torch.tensor([0.01])}, weight=1)])
            course.append(state.weights["var"].item())
        lowest[bool(statistics)] = min(course)
    assert lowest[False] < 0
    assert lowest[True] > 0


@by_name
def test_steps_are_counted_apart_from_rounds(strategy: Strategy, model: Weights) -> None:
    state = strategy.init(model)
    skipped = ServerState(state.round + 5, state.step, state.weights, state.statistics, state.slots)
    after = train(strategy, skipped, [6, 7])
    assert (after.round, after.step) == (7, 2)
    assert digest(after.weights) == digest(train(strategy, state, [6, 7]).weights)


@by_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_state_read_back_from_disk_continues_bit_for_bit(
    strategy: Strategy, model: Weights, dtype: torch.dtype, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path)

    def through_the_disk(state: ServerState) -> ServerState:
        weights = store.get(store.put_weights(state.weights))
        slots = {name: store.get(store.put_weights(slot)) for name, slot in state.slots.items()}
        return ServerState(state.round, state.step, weights, state.statistics, slots)

    start = strategy.init({name: tensor.to(dtype) for name, tensor in model.items()}, frozenset({"var"}))
    kept, resumed = train(strategy, start, range(1, 6)), train(strategy, start, range(1, 6), through_the_disk)
    assert digest(kept.weights) == digest(resumed.weights)
    assert {name: digest(slot) for name, slot in kept.slots.items()} == {
        name: digest(slot) for name, slot in resumed.slots.items()
    }


@pytest.mark.parametrize(
    ("weights", "slot"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64,) * 2,
    ],
)
def test_slots_are_never_in_half_precision(weights: torch.dtype, slot: torch.dtype) -> None:
    state = ServerState(0, 0, {"w": torch.zeros(2, dtype=weights)})
    assert slot_like(state, 0.25)["w"].tolist() == [0.25, 0.25]
    assert slot_like(state, 0.25)["w"].dtype == slot
    strategy = FedAdam()
    after = strategy.aggregate(strategy.init(state.weights), [Update("a", 1, {"w": torch.ones(2)}, weight=1)])
    assert {values["w"].dtype for values in after.slots.values()} == {slot}
