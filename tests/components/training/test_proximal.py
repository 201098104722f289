from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from components.training.proximal import ProximalCorrection


class TwoWeights(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.used = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        self.unused = torch.nn.Parameter(torch.tensor([3.0]))
        self.frozen = torch.nn.Parameter(torch.tensor([4.0]), requires_grad=False)


def corrected(mu: float, moved: list[float], gradient: list[float]) -> TwoWeights:
    module, correction = TwoWeights(), ProximalCorrection(mu)
    trainer: Any = None  # the callback asks nothing of it
    optimizer = torch.optim.SGD([module.used], lr=1.0)
    correction.on_train_start(trainer, module)
    with torch.no_grad():
        module.used.add_(torch.tensor(moved))
    module.used.grad = torch.tensor(gradient)
    correction.on_before_optimizer_step(trainer, module, optimizer)
    return module


def test_correction_worked_by_hand() -> None:
    # g + mu (w - w_base) = 1 + 0.5 * 4, 2 + 0.5 * (-2)
    module = corrected(0.5, [4.0, -2.0], [1.0, 2.0])
    assert module.used.grad.tolist() == [3.0, 1.0]
    assert module.unused.grad is None
    assert module.frozen.grad is None


def test_no_correction_where_the_round_started() -> None:
    assert corrected(9.0, [0.0, 0.0], [1.0, 2.0]).used.grad.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_a_weight_below_zero_is_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        ProximalCorrection(weight)
