"""Small synthetic sites and models, and a plain PyTorch loop to compare with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from components.data.batches import EvaluationBatches, TrainBatches
from components.training.local import TrainingOrder
from models.base import Architecture, Objective, OptimizerSettings
from models.classification import ImageClassifier

ARCHITECTURES = {
    "CNN": Architecture("CNN", (8, 8), arguments={"widths": [4, 8]}),
    "dropout": Architecture("CNN", (8, 8), arguments={"widths": [4, 8], "dropout": 0.5}),
    "DenseNet": Architecture(
        "DenseNet", (16, 16), arguments={"init_features": 4, "growth_rate": 2, "block_config": [2, 2]}
    ),
}


@dataclass
class Site:
    """Random images whose brightness tells the class, behind the real batches of the data part."""

    images: Tensor
    truth: Tensor

    @property
    def class_counts(self) -> dict[Any, Sequence[int]]:
        return {"train": torch.bincount(self.truth, minlength=2).tolist()}

    def labels(self, split: str) -> Tensor:
        return self.truth

    def train_batches(self, *, batch_size: int, seed: int, balanced: bool = False) -> TrainBatches:
        rows = torch.arange(len(self.truth))
        return TrainBatches(self.images, self.truth, rows, batch_size, seed, balanced)

    def evaluation_batches(self, split: str, *, batch_size: int) -> EvaluationBatches:
        return EvaluationBatches(self.images, self.truth, torch.arange(len(self.truth)), batch_size)


@pytest.fixture
def make_site() -> Callable[..., Site]:
    """Return a function that makes a site of so many items, for an architecture."""

    def make(items: int = 22, architecture: str = "CNN", seed: int = 1) -> Site:
        generator = torch.Generator().manual_seed(seed)
        truth = (torch.arange(items) % 3 == 0).long()
        images = torch.rand(items, 1, *ARCHITECTURES[architecture].spatial_size, generator=generator)
        return Site(images + truth[:, None, None, None], truth)

    return make


@pytest.fixture
def make_model() -> Callable[..., ImageClassifier]:
    """Return a function that makes a classifier."""

    def make(architecture: str = "CNN", imbalance: Any = "none", **optimizer: Any) -> ImageClassifier:
        settings = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, **optimizer}
        return ImageClassifier(
            ARCHITECTURES[architecture],
            objective=Objective("binary", 2, imbalance),
            optimizer=OptimizerSettings(**settings),
            seed=3,
        )

    return make


@pytest.fixture
def make_order() -> Callable[..., TrainingOrder]:
    """Return a function that makes an order of one epoch in batches of 8 on the CPU."""

    def make(**changes: Any) -> TrainingOrder:
        settings: dict[str, Any] = {"epochs": 1, "steps": None, "batch_size": 8, "balanced": False}
        return TrainingOrder(**{**settings, "precision": "32", "device": "cpu", "seed": 5, **changes})

    return make
