from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from models.base import Architecture, Objective, OptimizerSettings
from models.classification import ImageClassifier
from models.losses import class_weights, cross_entropy, focal, weighted


def classifier(kind: Any = "binary", classes: int = 2, imbalance: Any = "none", seed: int = 1) -> ImageClassifier:
    return ImageClassifier(
        Architecture("CNN", (8, 8), arguments={"widths": [4, 4]}),
        objective=Objective(kind, classes, imbalance),
        optimizer=OptimizerSettings("sgd", 0.1),
        seed=seed,
    )


def labels_of(kind: str, items: int = 6) -> Tensor:
    return (
        torch.arange(items * 3).reshape(items, 3).remainder(2).float()
        if kind == "multilabel"
        else (torch.arange(items) % (2 if kind == "binary" else 3))
    )


CASES = [("binary", 2, 1), ("multiclass", 3, 3), ("multilabel", 3, 3)]


@pytest.mark.parametrize(("kind", "classes", "outputs"), CASES)
def test_logits_probabilities_and_losses_have_their_shapes(kind: str, classes: int, outputs: int) -> None:
    model = classifier(kind, classes)
    logits = model(torch.rand(6, 1, 8, 8))
    scores = model.probabilities(logits)
    assert scores.shape == (6, outputs)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (kind == "multiclass") == torch.allclose(scores.sum(1), torch.ones(6))
    assert model.item_losses(logits, labels_of(kind)).shape == (6,)


@pytest.mark.parametrize("imbalance", ["none", "weighted_loss", "focal", "balanced_sampling"])
@pytest.mark.parametrize(("kind", "classes", "outputs"), CASES)
def test_training_loss_is_the_stated_one(kind: str, classes: int, outputs: int, imbalance: str) -> None:
    model = classifier(kind, classes, imbalance)
    logits, labels = torch.randn(6, outputs), labels_of(kind)
    counts = [1, 5] if kind == "binary" else [1, 2, 3]
    model.set_class_counts(counts, 6)
    entropy = cross_entropy(logits, labels)
    expected = {
        "none": entropy,
        "balanced_sampling": entropy,
        "focal": focal(logits, labels),
        "weighted_loss": weighted(entropy, labels, class_weights(counts, 6, independent=kind == "multilabel")),
    }[imbalance].mean()
    torch.testing.assert_close(model.loss(logits, labels), expected)
    torch.testing.assert_close(model.item_losses(logits, labels).mean(), entropy.mean())


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, same, other = classifier(seed=4), classifier(seed=4), classifier(seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(first.network.features[0].weight, other.network.features[0].weight)


def test_a_sites_class_counts_are_not_among_its_weights() -> None:
    model = classifier(imbalance="weighted_loss")
    model.set_class_counts([90, 10], 100)
    assert model.class_weights[1].tolist() == pytest.approx([100 / 180, 5.0])
    assert all(name.startswith("network.") for name in model.state_dict())


@pytest.mark.parametrize(("kind", "classes", "outputs"), CASES)
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6 on torch 2.13
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_plain_trainer_reports_metrics(kind: str, classes: int, outputs: int) -> None:
    model = classifier(kind, classes)
    loader = DataLoader(TensorDataset(torch.rand(6, 1, 8, 8), labels_of(kind)), batch_size=3)
    before = list(model.state_dict())
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, loader, loader)
    assert {"validation_auroc", "validation_accuracy", "validation_loss"} <= trainer.callback_metrics.keys()
    assert list(model.state_dict()) == before
