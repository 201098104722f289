"""Classifying images: one Lightning module for binary, multiclass and multilabel tasks, in 2D and 3D.

`Classifier` is what it shares with the risk models of `models.tabular`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import AUROC, Accuracy

from models import losses
from models.base import Architecture, Objective, OptimizerSettings, seeded
from models.networks import build_network

Batch = tuple[Tensor, Tensor]

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}  # by spatial dimensions


class Classifier(pl.LightningModule):
    """What all classifiers share, whatever they take: probabilities, losses, metrics, the optimiser.

    Args:
        objective: What is predicted, and how unequal classes are handled.
        optimizer: What it is trained with.
    """

    network: nn.Module
    class_weights: Tensor

    def __init__(self, objective: Objective, optimizer: OptimizerSettings) -> None:
        super().__init__()
        self.objective = objective
        self.optimizer_settings = optimizer
        # Not persistent: how many patients of a class a site has must not travel with the weights.
        self.register_buffer("class_weights", torch.ones(2, objective.classes), persistent=False)
        self.validation_metrics: MetricCollection | None = None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return probabilities [N, K] in [0, 1]: of the second class for binary, else of each class."""
        return torch.softmax(logits, dim=1) if self.objective.kind == "multiclass" else torch.sigmoid(logits)

    def set_class_counts(self, counts: Sequence[int], items: int) -> None:
        """Set the weights of ``weighted_loss`` from the site's own training items; else do nothing.

        Args:
            counts: Items per class.
            items: Number of items (with several labels an item, this is not the sum of the counts).
        """
        if self.objective.imbalance == "weighted_loss":
            independent = self.objective.kind == "multilabel"
            weights = losses.class_weights(counts, items, independent=independent)
            self.class_weights = weights.to(self.class_weights.device)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean training loss of a batch, with the stated handling of unequal classes.

        Args:
            logits: [N, K].
            labels: int64 [N] for binary and multiclass; float32 [N, C] for multilabel.
        """
        if self.objective.imbalance == "focal":
            return losses.focal(logits, labels).mean()
        if self.objective.imbalance == "weighted_loss":
            return losses.weighted(losses.cross_entropy(logits, labels), labels, self.class_weights).mean()
        return losses.mean_cross_entropy(logits, labels)

    def item_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each item's cross-entropy [N], unweighted, so that sums of all sites can be added."""
        return losses.cross_entropy(logits, labels).mean(dim=1)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch; nothing is logged, since a step may take a millisecond."""
        items, labels = batch
        return self.loss(self(items), labels)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log loss and metrics of a batch, when the module is trained with a plain Lightning Trainer."""
        items, labels = batch
        logits = self(items)
        if self.validation_metrics is None:
            self.validation_metrics = self._metrics().to(self.device)
        scores = self.probabilities(logits)
        self.validation_metrics.update(scores.squeeze(1) if self.objective.kind == "binary" else scores, labels.long())
        self.log("validation_loss", self.item_losses(logits, labels).mean(), batch_size=len(items))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole split."""
        if self.validation_metrics is not None:
            self.log_dict(self.validation_metrics.compute())
            self.validation_metrics.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return a fresh optimiser."""
        return self.optimizer_settings.build(self.parameters())

    def _metrics(self) -> MetricCollection:
        """Return the metrics of the task; made at first use, the federated path has its own."""
        kind, classes = self.objective.kind, self.objective.classes
        auroc = AUROC(task=kind, num_classes=classes, num_labels=classes)
        accuracy = Accuracy(task=kind, num_classes=classes, num_labels=classes)
        return MetricCollection({"validation_auroc": auroc, "validation_accuracy": accuracy})


class ImageClassifier(Classifier):
    """A network that classifies images, its loss and its optimiser.

    Args:
        architecture: The network and the images it takes.
        objective: What is predicted, and how unequal classes are handled.
        optimizer: What it is trained with.
        seed: Seed of the first weights: equal seeds give equal weights, bit for bit, and the caller's
            random state is left as it was.

    Raises:
        ValueError: If the network's arguments are wrong; see `models.networks.build_network`.
    """

    def __init__(
        self, architecture: Architecture, *, objective: Objective, optimizer: OptimizerSettings, seed: int
    ) -> None:
        super().__init__(objective, optimizer)
        self.architecture = architecture
        network = seeded(
            seed,
            lambda: build_network(
                architecture.name,
                architecture.arguments,
                spatial_dims=len(architecture.spatial_size),
                in_channels=architecture.channels,
                out_channels=objective.logits,
                spatial_size=architecture.spatial_size,
            ),
        )
        # A quarter to a third faster on the CPU, and what tensor cores want; the values are the same.
        self.network = network.to(memory_format=_CHANNELS_LAST[len(architecture.spatial_size)])  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, K] of images [N, C, *spatial]; K is 1 for a binary task."""
        return self.network(images)  # type: ignore[no-any-return]
