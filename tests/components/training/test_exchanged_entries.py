from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from components.errors import RefusedError
from components.training.exchanged_entries import exchanged_entries, load_entries, read_entries
from components.weights import digest


class Misnamed(nn.Module):
    """Layers whose names say the opposite of what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.Conv2d(1, 2, 1)
        self.plain = nn.BatchNorm2d(2)
        self.group = nn.GroupNorm(1, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = nn.Linear(2, 2, bias=False)
        self.tied_too = nn.Linear(2, 2, bias=False)
        self.tied_too.weight = self.tied.weight
        self.tied_too.is_output_layer = True
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("counts", torch.ones(3), persistent=False)


def test_entries_are_found_by_type() -> None:
    entries = exchanged_entries(Misnamed())
    assert set(entries.parameters) == {
        "bn.weight", "bn.bias", "plain.weight", "plain.bias", "group.weight", "group.bias", "tied.weight",
    }  # fmt: skip
    assert set(entries.statistics) == {
        "plain.running_mean", "plain.running_var", "frozen.weight", "frozen.bias", "scale",
    }  # fmt: skip
    assert set(entries.normalisation) == {
        "plain.weight", "plain.bias", "plain.running_mean", "plain.running_var", "group.weight", "group.bias",
    }  # fmt: skip
    assert entries.output == ("tied.weight",)
    assert len(entries.all) == 12


def test_what_stays_at_a_site_goes_by_the_strategys_word() -> None:
    entries = exchanged_entries(Misnamed())
    assert (entries.personal("none"), entries.personal("output")) == ((), entries.output)
    assert entries.personal("normalisation") == entries.normalisation
    with pytest.raises(RefusedError, match="one of none, normalisation, output, asked for 'heads'"):
        entries.personal("heads")


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.GroupNorm(1, 2),
        nn.LayerNorm(2), nn.InstanceNorm1d(2, affine=True), nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
        nn.InstanceNorm3d(2, affine=True),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_every_kind_of_normalisation_is_found(layer: nn.Module) -> None:
    entries = exchanged_entries(nn.Sequential(nn.Linear(2, 2), layer))
    floats = {f"1.{name}" for name, tensor in layer.state_dict().items() if tensor.is_floating_point()}
    assert set(entries.normalisation) == floats
    assert "1.weight" in floats


def test_reading_and_loading_restores_bit_for_bit_and_counts_tied_tensors_once() -> None:
    first, second = Misnamed(), Misnamed()
    weights = read_entries(first)
    load_entries(second, weights)
    assert "tied_too.weight" not in weights
    assert torch.equal(second.tied_too.weight, first.tied.weight)
    assert digest(read_entries(second)) == digest(weights)


def test_what_was_read_is_a_copy() -> None:
    module = nn.Linear(2, 2)
    weights = read_entries(module)
    weights["weight"].zero_()
    assert module.weight.abs().sum() > 0


def test_integer_counters_stay_where_they_are() -> None:
    module = nn.BatchNorm2d(2)
    module.num_batches_tracked.fill_(5)
    load_entries(module, read_entries(nn.BatchNorm2d(2)))
    assert module.num_batches_tracked == 5


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda w: w.pop("bias"), "missing ['bias']"),
        (lambda w: w.update(extra=torch.zeros(1)), "unknown ['extra']"),
        (lambda w: w.update(bias=torch.zeros(3)), "'bias' is torch.float32 (3,)"),
        (lambda w: w.update(bias=torch.zeros(2, dtype=torch.float64)), "'bias' is torch.float64"),
        (lambda w: w.update(bias=torch.tensor([0.0, float("nan")])), "'bias' holds values that are not finite"),
        (lambda w: w.update(bias=torch.tensor([0.0, float("inf")])), "'bias' holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_whole(tamper: Callable[[dict[str, Tensor]], object], message: str) -> None:
    module = nn.Linear(2, 2)
    before = digest(read_entries(module))
    weights = {name: tensor + 1 for name, tensor in read_entries(module).items()}
    tamper(weights)
    with pytest.raises(RefusedError) as caught:
        load_entries(module, weights)
    assert message in str(caught.value)
    assert digest(read_entries(module)) == before
