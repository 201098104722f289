import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.errors import DataError, RefusedError
from components.training.evaluate import evaluate_site
from components.training.exchanged_entries import exchanged_entries, load_entries, read_entries
from components.training.local import TrainingOrder, train_site
from components.training.trainer import SiteTrainer
from components.weights import Weights

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, there is none here")


def plain_loop(
    model: Any, site: Any, order: TrainingOrder, *, proximal: float = 0.0
) -> tuple[Weights, list[tuple[float, int]]]:
    """Train as anybody would by hand: the naive reference."""
    torch.manual_seed(order.seed)
    model.train()
    base = [parameter.detach().clone() for parameter in model.parameters()]
    settings = model.optimizer_settings
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    batches = site.train_batches(batch_size=order.batch_size, seed=order.seed, balanced=order.balanced)
    losses: list[tuple[float, int]] = []
    for _ in range(order.epochs or 99):
        for images, labels in batches:
            if len(losses) == order.steps:
                break
            loss = F.binary_cross_entropy_with_logits(model.network(images), labels.float()[:, None])
            drift = sum(((p - b) ** 2).sum() for p, b in zip(model.parameters(), base, strict=True))
            optimizer.zero_grad()
            (loss + proximal / 2 * drift if proximal else loss).backward()
            optimizer.step()
            losses.append((loss.item(), len(labels)))
    return read_entries(model), losses


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "settings", [{}, {"epochs": 3}, {"epochs": None, "steps": 2}, {"epochs": None, "steps": 7}, {"balanced": True}]
)
@pytest.mark.parametrize("architecture", ["CNN", "dropout", "DenseNet"])
def test_training_equals_a_plain_loop_bit_for_bit(
    make_model: Any, make_site: Any, make_order: Any, architecture: str, settings: dict[str, Any]
) -> None:
    site, order = make_site(architecture=architecture), make_order(**settings)
    result = train_site(make_model(architecture), site, order)
    expected, losses = plain_loop(make_model(architecture), site, order)
    assert same(result.weights, expected)
    assert result.steps == len(losses)
    assert result.samples == 22


def test_loss_sum_is_that_of_the_last_epoch(make_model: Any, make_site: Any, make_order: Any) -> None:
    site, order = make_site(), make_order(epochs=2)
    _, losses = plain_loop(make_model(), site, order)
    expected = sum(loss * items for loss, items in losses[-3:])
    assert train_site(make_model(), site, order).loss_sum == pytest.approx(expected, rel=1e-6)


def test_loss_sum_of_a_cut_epoch_is_scaled_to_all_samples(make_model: Any, make_site: Any, make_order: Any) -> None:
    site, order = make_site(), make_order(epochs=None, steps=2)
    _, losses = plain_loop(make_model(), site, order)
    expected = sum(loss for loss, _ in losses) / 2 * 22
    assert train_site(make_model(), site, order).loss_sum == pytest.approx(expected, rel=1e-6)


def test_rounds_after_evaluations_train_with_live_batch_norm(make_model: Any, make_site: Any, make_order: Any) -> None:
    site, model, reference = make_site(), make_model(), make_model()
    for number in (1, 2, 3):
        order = make_order(seed=number)
        before = model.network.features[1].running_mean.clone()
        result = train_site(model, site, order)
        assert same(result.weights, plain_loop(reference, site, order)[0])
        assert not torch.equal(before, result.weights["network.features.1.running_mean"])
        model.eval()  # the mode a careless evaluation leaves behind
        evaluate_site(model, site, "validation", bins=10, device="cpu")
        assert not model.training


def test_a_round_is_a_function_of_weights_data_and_order_alone(
    make_model: Any, make_site: Any, make_order: Any
) -> None:
    site, order, fresh = make_site(), make_order(proximal_weight=0.1), make_model()
    start = read_entries(fresh)
    expected = train_site(fresh, site, order)
    used = make_model()
    train_site(used, make_site(30, seed=9), make_order(seed=77, epochs=2))
    train_site(used, site, make_order(epochs=None, steps=5, proximal_weight=3.0))
    load_entries(used, start)
    torch.rand(100)
    assert same(train_site(used, site, order).weights, expected.weights)


def test_another_seed_gives_another_result(make_model: Any, make_site: Any, make_order: Any) -> None:
    first, second = (train_site(make_model(), make_site(), make_order(seed=seed)).weights for seed in (1, 2))
    assert not same(first, second)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_proximal_correction_equals_the_term_in_the_loss(
    make_model: Any, make_site: Any, make_order: Any, weight: Any
) -> None:
    site, order = make_site(), make_order(epochs=3, proximal_weight=weight)
    result = train_site(make_model(), site, order)
    expected, losses = plain_loop(make_model(), site, order, proximal=weight)
    for name, tensor in expected.items():
        torch.testing.assert_close(result.weights[name], tensor, rtol=1e-4, atol=1e-6)
    assert result.loss_sum == pytest.approx(sum(loss * items for loss, items in losses[-3:]), rel=1e-4)
    assert same(result.weights, train_site(make_model(), site, make_order(epochs=3)).weights) == (weight == 0)


def test_weighted_loss_uses_the_sites_own_frequencies(make_model: Any, make_site: Any, make_order: Any) -> None:
    site, model = make_site(24), make_model(imbalance="weighted_loss")
    result = train_site(model, site, make_order())
    assert model.class_weights[1].tolist() == [0.75, 1.5]  # 16 and 8 of 24
    assert not same(result.weights, train_site(make_model(), site, make_order()).weights)


def test_the_result_is_the_sites_own_memory(make_model: Any, make_site: Any, make_order: Any) -> None:
    model = make_model()
    result = train_site(model, make_site(), make_order())
    assert list(result.weights) == list(read_entries(model))
    assert set(result.weights) == set(exchanged_entries(model).all)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert any(tensor.abs().sum() > 0 for tensor in result.weights.values())
    assert not any(tensor.requires_grad for tensor in result.weights.values())


def test_the_callers_process_is_as_it_was(make_model: Any, make_site: Any, make_order: Any) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, interrupted)
    torch.manual_seed(11)
    try:
        state, terminate = torch.get_rng_state(), signal.getsignal(signal.SIGTERM)
        with torch.no_grad():
            train_site(make_model("dropout"), make_site(), make_order())
            assert not torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), state)
        assert signal.getsignal(signal.SIGINT) is interrupted
        assert signal.getsignal(signal.SIGTERM) is terminate
        assert not logging.getLogger("pytorch_lightning.utilities.rank_zero").filters
    finally:
        signal.signal(signal.SIGINT, handler)


def test_nothing_is_printed_or_written(
    make_model: Any,
    make_site: Any,
    make_order: Any,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    train_site(make_model(), make_site(), make_order())
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


class Interrupting:
    """A site whose second batch is Ctrl-C."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.class_counts = site.class_counts
        self.labels = site.labels

    def train_batches(self, **settings: Any) -> Any:
        return self

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.site.images, self.site.truth
        raise KeyboardInterrupt


def test_ctrl_c_stays_ctrl_c_and_the_next_round_is_sound(make_model: Any, make_site: Any, make_order: Any) -> None:
    model, site = make_model(), make_site()
    start, handler = read_entries(model), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_site(model, Interrupting(site), make_order())
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(RuntimeError, match="not attached"):  # a Trainer stopped half-way is not kept
        _ = model.trainer
    load_entries(model, start)
    assert same(train_site(model, site, make_order()).weights, train_site(make_model(), site, make_order()).weights)


def test_ctrl_c_before_the_first_step_does_not_switch_ctrl_c_off(
    make_model: Any, make_site: Any, make_order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    model, handler = make_model(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(model, "configure_optimizers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_site(model, make_site(), make_order())
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_trainer_is_used_again_and_keeps_nothing(make_model: Any, make_site: Any, make_order: Any) -> None:
    model, site = make_model(), make_site()
    train_site(model, site, make_order(proximal_weight=1.0))
    first = model.trainer
    train_site(model, site, make_order())
    assert isinstance(first, SiteTrainer)
    assert model.trainer is first
    assert first.callbacks == []
    assert first.optimizers == []


def test_divergence_is_refused(make_model: Any, make_site: Any, make_order: Any) -> None:
    model, site = make_model(learning_rate=1e30), make_site()
    start = read_entries(make_model())
    with pytest.raises(RefusedError, match=r"finite.*learning_rate"):
        train_site(model, site, make_order(epochs=3))
    load_entries(model, start)
    with pytest.raises(RefusedError, match="finite"):  # and the module is still usable
        train_site(model, site, make_order(epochs=3))


def test_weights_that_diverge_in_the_last_step_are_refused(make_model: Any, make_site: Any, make_order: Any) -> None:
    model = make_model(learning_rate=3e38)
    with torch.no_grad():
        model.network.features[5].weight.fill_(1e3)  # large gradients at the last layer
    with pytest.raises(RefusedError, match="not finite after training"):
        train_site(model, make_site(), make_order(epochs=None, steps=1))


def test_broken_pixels_are_refused(make_model: Any, make_site: Any, make_order: Any) -> None:
    site = make_site()
    site.images[3, 0, 0, 0] = float("nan")
    with pytest.raises(RefusedError, match="finite"):
        train_site(make_model(), site, make_order())


def test_divergence_ends_the_work_with_its_epoch(
    make_model: Any, make_site: Any, make_order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site()
    site.images[3, 0, 0, 0] = float("nan")
    batches = site.train_batches(batch_size=8, seed=1)
    monkeypatch.setattr(site, "train_batches", lambda **_: batches)
    with pytest.raises(RefusedError, match="finite"):
        train_site(make_model(), site, make_order(epochs=50))
    assert batches._passes == 1


def test_a_site_without_training_items_is_told(make_model: Any, make_site: Any, make_order: Any) -> None:
    with pytest.raises(DataError, match="no training items"):
        train_site(make_model(), make_site(0), make_order())


def test_a_single_item_that_cannot_pass_batch_norm_is_told(make_model: Any, make_site: Any, make_order: Any) -> None:
    model, site = make_model("DenseNet"), make_site(1, "DenseNet")
    site.images = site.images[..., :8, :8]  # one pixel at the last normalisation
    with pytest.raises(DataError, match=r"choose local\.batch_size"):
        train_site(model, site, make_order())


@pytest.mark.parametrize(
    "changes", [{"steps": 3}, {"epochs": None}, {"epochs": 0}, {"epochs": None, "steps": 0}, {"batch_size": 0}]
)
def test_contradicting_orders_are_refused(make_order: Any, changes: Any) -> None:
    with pytest.raises(ValueError, match=r"exactly one|1 or more"):
        make_order(**changes)


def test_half_precision_is_not_changed_in_silence_on_the_cpu(make_model: Any, make_site: Any, make_order: Any) -> None:
    with pytest.raises(RefusedError, match="16-mixed needs a CUDA GPU"):
        train_site(make_model(), make_site(), make_order(precision="16-mixed"))


def test_bfloat16_trains_on_the_cpu_in_float32_weights(make_model: Any, make_site: Any, make_order: Any) -> None:
    result = train_site(make_model(), make_site(), make_order(precision="bf16-mixed"))
    exact = train_site(make_model(), make_site(), make_order())
    assert all(tensor.dtype == torch.float32 for tensor in result.weights.values())
    assert not same(result.weights, exact.weights)


@needs_gpu
@pytest.mark.parametrize("precision", ["32", "16-mixed", "bf16-mixed"])
def test_a_gpu_gives_what_the_cpu_gives_nearly(
    make_model: Any, make_site: Any, make_order: Any, precision: Any
) -> None:
    state = torch.cuda.get_rng_state()
    model = make_model()
    result = train_site(model, make_site(), make_order(device="auto", precision=precision, proximal_weight=0.1))
    exact = train_site(make_model(), make_site(), make_order(proximal_weight=0.1))
    tolerance = 1e-4 if precision == "32" else 3e-2
    for name, tensor in exact.weights.items():
        assert result.weights[name].device.type == "cpu"
        torch.testing.assert_close(result.weights[name], tensor, rtol=tolerance, atol=tolerance)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert next(model.parameters()).device.type == "cpu"
