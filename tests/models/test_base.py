from collections.abc import Callable

import pytest
import torch

from models.base import Objective, OptimizerSettings, seeded


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_optimizers_get_their_settings_and_only_what_is_trained(name: str, kind: str) -> None:
    trained, frozen = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    optimizer = OptimizerSettings(name, learning_rate=0.3, weight_decay=0.1).build([trained, frozen])
    group = optimizer.param_groups[0]
    assert type(optimizer).__name__ == kind
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.3, 0.1, 1)


def test_momentum_is_sgds() -> None:
    assert (
        OptimizerSettings("sgd", momentum=0.9).build([torch.nn.Parameter(torch.zeros(1))]).defaults["momentum"] == 0.9
    )
    with pytest.raises(ValueError, match="momentum belongs to sgd"):
        OptimizerSettings("adam", momentum=0.9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Objective("ordinal", 3),
        lambda: Objective("binary", 3),
        lambda: Objective("multiclass", 1),
        lambda: Objective("binary", 2, "oversample"),
        lambda: OptimizerSettings("lion"),
        lambda: OptimizerSettings(learning_rate=0.0),
    ],
)
def test_what_is_not_offered_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="given"):
        make()


def test_a_seed_decides_and_the_callers_random_state_stays() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = seeded(7, lambda: torch.rand(3)), seeded(8, lambda: torch.rand(3))
    assert torch.equal(first, seeded(7, lambda: torch.rand(3)))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
