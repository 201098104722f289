"""Evaluating a survival model on a site's own items, as sums that can be added over sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from components.errors import RefusedError
from components.evaluation.benefit import Predicted, treatment_sums
from components.evaluation.histograms import Booleans, Floats
from components.evaluation.survival_sums import RAREST, Censoring, censoring_of, survival_sums
from components.rounds import ScoreSums, Split, TreatmentSums
from components.survival import Survival
from components.training.devices import Device, choose_device
from components.training.evaluate import BATCH_SIZE, EvaluationBatches, PredictsBenefit, evaluating

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class SurvivalData(EvaluationBatches, Protocol):
    """The part of a site's data that this needs."""

    def labels(self, split: Split) -> Tensor:
        """Return times and events [N, 2] of a split."""
        ...


class Baseline(Protocol):
    """What turns scores into survival."""

    def survival(self, scores: Tensor) -> Tensor:
        """Return the chance of no event until each edge of the grid."""
        ...


@runtime_checkable
class PredictsSurvival(Protocol):
    """What a module offers to be evaluated; `models.survival.SurvivalModel` does."""

    baseline: Baseline

    def predictions(self, scores: Tensor) -> Tensor:
        """Return the risk score, and the chance of no event until each horizon."""
        ...

    def item_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each item among these items."""
        ...


def evaluate_survival(
    module: nn.Module,
    data: SurvivalData,
    split: Split,
    *,
    task: Survival,
    bins: int,
    smallest_cell: int,
    device: Device = "auto",
    batch_size: int = BATCH_SIZE,
    masks: Callable[[Tensor], Mapping[str, Booleans]] | None = None,
) -> ScoreSums:
    """Evaluate a survival model on one split of a site's items.

    Args:
        module: A `PredictsSurvival`.
        data: The site's data; the curve of censoring is that of all of its splits.
        split: Which part of it is scored.
        task: The study's task.
        bins: The study's resolution, which is passed on only.
        smallest_cell: Fewest patients in a group of the calibration.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: Items scored at once.
        masks: Says of items which of them are in which subgroup.

    Returns:
        Sums over the items, and of each subgroup, whatever its size. `loss` of a partial likelihood has its risk sets
        among the split's items of this site, those of a subgroup among its own.

    Raises:
        RefusedError: If a score is not finite.
        ValueError: If the module is no `PredictsSurvival`.

    Guarantees:
        The module leaves as it came.
    """
    if not isinstance(module, PredictsSurvival):
        raise ValueError(f"{type(module).__name__} predicts no survival")
    with evaluating(module, choose_device(device)) as target:
        batches = list(data.evaluation_batches(split, batch_size=batch_size))
        scored = [module(rows.to(target)).float() for rows, _ in batches] or [torch.zeros(0, 1)]
        scores = torch.cat(scored)
        labels = torch.cat([truth for _, truth in batches] or [torch.zeros(0, 2)])
        risk, chances = module.predictions(scores)[:, 0].cpu(), module.baseline.survival(scores).cpu()
        scores = scores.cpu().double()
        if not (torch.isfinite(scores).all() and torch.isfinite(risk).all() and torch.isfinite(chances).all()):
            raise RefusedError("the model's scores are not finite; its weights cannot be used")
        add_up = partial(
            _sums, module, scores, risk.double().numpy(), chances.double().numpy(), labels.double(),
            task=task, bins=bins, smallest_cell=smallest_cell,
            everybody=torch.cat([data.labels(part) for part in SPLITS]).double().numpy(),
        )  # fmt: skip
        chosen = masks(torch.cat([rows for rows, _ in batches])) if masks is not None and batches else {}
        groups = {name: add_up(mask) for name, mask in chosen.items()}
        treatment = _treatment(
            module, batches, target, task=task, bins=bins, smallest_cell=smallest_cell,
            censoring=censoring_of(add_up.keywords["everybody"]),
        )  # fmt: skip
        whole = add_up(np.ones(len(labels), dtype=np.bool_))
        return whole.model_copy(update={"groups": groups, "treatment": treatment})


def _treatment(
    module: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    task: Survival,
    bins: int,
    smallest_cell: int,
    censoring: Censoring,
) -> TreatmentSums | None:
    """Return the sums about predicted benefits.

    None if the model predicts none, or too few patients are there, or followed until the horizon.
    """
    if not isinstance(module, PredictsBenefit) or not batches:
        return None
    found = [[part.cpu() for part in module.benefit(rows.to(device))] for rows, _ in batches]
    benefit, given, arm = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    labels, until = torch.cat([truth for _, truth in batches]).double().numpy(), task.horizons[-1]
    if censoring.before(until) < RAREST:
        return None
    time = np.minimum(labels[:, 0], until)
    died = (labels[:, 1] > 0) & (labels[:, 0] <= until)
    known = died | (labels[:, 0] >= until)
    predicted = Predicted(benefit, given, arm, ~died, time / until, known / censoring.before(time))
    return treatment_sums(predicted, bins=bins, smallest_cell=smallest_cell)


def _sums(
    module: PredictsSurvival,
    scores: Tensor,
    risk: Floats,
    chances: Floats,
    labels: Tensor,
    mask: Booleans,
    *,
    task: Survival,
    bins: int,
    smallest_cell: int,
    everybody: Floats,
) -> ScoreSums:
    """Return the sums of some of the items."""
    chosen = torch.from_numpy(mask)
    truth = labels[chosen]
    loss = float(module.item_losses(scores[chosen], truth).sum()) if len(truth) else 0.0
    if not math.isfinite(loss):
        raise RefusedError("the model's loss is not finite; its weights cannot be used")
    found = survival_sums(
        risk[mask], chances[mask], truth.numpy(),
        task=task, censoring=censoring_of(everybody), smallest_cell=smallest_cell,
    )  # fmt: skip
    return ScoreSums(
        bins=bins, positives=[], negatives=[], score_sums=[], squared_error=[], confusion=[],
        loss=loss, count=len(truth), survival=found,
    )  # fmt: skip
