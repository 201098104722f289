"""Evaluating a model on a site's own items, as sums that can be added over sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from components.errors import RefusedError
from components.evaluation.benefit import Predicted, treatment_sums
from components.evaluation.histograms import Booleans, TaskKind, sums_from_scores
from components.rounds import ScoreSums, Split, TreatmentSums
from components.training.devices import Device, choose_device

Batch = tuple[Tensor, Tensor]
BATCH_SIZE = 256  # items scored at once; a result does not depend on it beyond rounding


class EvaluationBatches(Protocol):
    """The part of a site's data that an evaluation needs."""

    def evaluation_batches(self, split: Split, *, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Return batches of images and labels, each item once."""
        ...


class Objective(Protocol):
    """What a classifier says about its task."""

    @property
    def kind(self) -> TaskKind:
        """``binary``, ``multiclass`` or ``multilabel``."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """What a module offers to be evaluated; `models.classification.ImageClassifier` does."""

    objective: Objective

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return probabilities [N, K] of logits [N, K]."""
        ...

    def item_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each item, [N]."""
        ...


@runtime_checkable
class PredictsBenefit(Protocol):
    """A module that recommends a treatment; `models.treatment.TreatmentModel` does."""

    @property
    def better(self) -> int:
        """The class that is wanted for a patient."""
        ...

    def benefit(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return, for each patient, the benefit of the second arm, the chance of being given it, and the arm."""
        ...


def evaluate_site(
    module: nn.Module,
    data: EvaluationBatches,
    split: Split,
    *,
    bins: int,
    threshold: float = 0.5,
    device: Device = "auto",
    batch_size: int = BATCH_SIZE,
    masks: Callable[[Tensor], Mapping[str, Booleans]] | None = None,
    smallest_cell: int = 1,
) -> ScoreSums:
    """Evaluate a model on one split of a site's items.

    Args:
        module: A `Classifier`; its weights are the ones evaluated.
        data: The site's data.
        split: Which part of it.
        bins: Resolution of the score histograms.
        threshold: Score from which an item counts as positive (binary tasks).
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: Items scored at once.
        masks: Says of items which of them are in which subgroup.
        smallest_cell: Fewest patients behind a number about the benefit of a treatment.

    Returns:
        Sums over the items, and of each subgroup with its sums in `groups`, whatever its size. `loss` adds up the
        unweighted cross-entropy, so that sites with different class frequencies can be added.

    Raises:
        RefusedError: If a score is not finite, or the device is not there.
        ValueError: If the module is no `Classifier`.

    Guarantees:
        The module leaves as it came: mode of every layer, device, weights and statistics.
    """
    if not isinstance(module, Classifier):
        raise ValueError(f"{type(module).__name__} has no objective, probabilities and item_losses to evaluate")
    with evaluating(module, choose_device(device)) as target:
        batches = data.evaluation_batches(split, batch_size=batch_size)
        scores, labels, loss = _score(module, batches, target)
        treatment = _treatment(module, batches, target, bins=bins, smallest_cell=smallest_cell)
    objective = module.objective
    width = 1 if objective.kind == "binary" else objective.classes
    add_up = partial(
        sums_from_scores,
        kind=objective.kind,
        classes=[str(number) for number in range(objective.classes)],
        bins=bins,
        threshold=threshold,
    )
    score = torch.cat(scores) if scores else torch.zeros(0, width)
    no_labels = torch.zeros(0, width) if objective.kind == "multilabel" else torch.zeros(0)
    truth = torch.cat(labels) if labels else no_labels
    chosen = masks(torch.cat([items for items, _ in batches])) if masks is not None and scores else {}
    groups = {name: add_up(score.numpy()[mask], truth.numpy()[mask]) for name, mask in chosen.items()}
    return add_up(score, truth).model_copy(update={"loss": loss, "groups": groups, "treatment": treatment})


def _treatment(
    module: nn.Module, batches: Iterable[Batch], device: torch.device, *, bins: int, smallest_cell: int
) -> TreatmentSums | None:
    """Return the sums about predicted benefits; None if the model predicts none, or too few patients are there."""
    if not isinstance(module, PredictsBenefit):
        return None
    found = [[part.cpu() for part in module.benefit(items.to(device))] for items, _ in batches]
    if not found:
        return None
    benefit, given, arm = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    outcome = torch.cat([labels for _, labels in batches]).numpy() == module.better
    return treatment_sums(Predicted(benefit, given, arm, outcome), bins=bins, smallest_cell=smallest_cell)


def _score(
    module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[list[Tensor], list[Tensor], float]:
    """Return scores and labels of all batches on the CPU, and the sum of their losses."""
    assert isinstance(module, Classifier)  # checked by the caller; tells the type checker
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    losses: list[Tensor] = []
    for images, truth in batches:
        logits = module(images.to(device, non_blocking=True)).float()
        losses.append(module.item_losses(logits, truth.to(device, non_blocking=True)).double().sum())
        scores.append(module.probabilities(logits).cpu())
        labels.append(truth)
    loss = float(sum(part.item() for part in losses))
    if not (math.isfinite(loss) and all(torch.isfinite(part).all() for part in scores)):
        raise RefusedError("the model's scores are not finite; its weights cannot be used")
    return scores, labels, loss


@contextmanager
def evaluating(module: nn.Module, device: torch.device) -> Iterator[torch.device]:
    """Put a module into evaluation mode on a device, without gradients, and back as it was."""
    modes = [(part, part.training) for part in module.modules()]
    home = next((tensor.device for tensor in module.parameters()), device)
    try:
        with torch.no_grad():
            module.eval().to(device)
            yield device
    finally:
        module.to(home)
        for part, training in modes:
            part.training = training
