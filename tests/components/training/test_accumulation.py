"""A batch in parts gives the step of the whole batch."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from components.errors import RefusedError
from components.training.accumulation import BatchParts
from components.training.exchanged_entries import read_entries
from components.training.local import train_site


class Plain(pl.LightningModule):
    """A network whose layers see one item at a time; it notes how large its batches are."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 2))
        self.given: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.given.append(len(batch[0]))
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Is never called; Lightning asks for it."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("settings", [{"epochs": 3}, {"epochs": None, "steps": 7}, {"proximal_weight": 0.3}])
@pytest.mark.parametrize("items", [24, 23])  # the last batch of 23 has 7, in parts of 4 and 3
def test_parts_make_the_steps_of_whole_batches(
    make_site: Callable[..., Any], make_order: Callable[..., Any], items: int, settings: dict[str, Any], parts: int
) -> None:
    site, whole, split = make_site(items), Plain(), Plain()
    expected = train_site(whole, site, make_order(**settings))
    found = train_site(split, site, make_order(**settings, parts=parts))
    assert max(whole.given) == 8
    assert max(split.given) == 8 // parts
    assert sum(split.given) == sum(whole.given)
    assert found.steps == expected.steps
    assert found.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_next_training_has_whole_batches_again(
    make_site: Callable[..., Any], make_order: Callable[..., Any]
) -> None:
    """The Trainer is kept from round to round."""
    site, module, fresh = make_site(), Plain(), Plain()
    fresh.load_state_dict(module.state_dict())
    train_site(module, site, make_order(parts=2))
    fresh.load_state_dict(module.state_dict())
    second, expected = (train_site(one, site, make_order(seed=6)) for one in (module, fresh))
    assert second.steps == expected.steps == 3
    assert all(torch.equal(second.weights[name], tensor) for name, tensor in read_entries(fresh).items())


def test_a_batch_with_fewer_items_than_parts_is_refused() -> None:
    with pytest.raises(RefusedError, match="a batch of 1 items cannot be split into 2 parts"):
        list(BatchParts([(torch.zeros(1, 3), torch.zeros(1))], 2))


def test_one_part_is_no_accumulation() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        BatchParts([], 1)
