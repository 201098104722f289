"""Weights for censoring: against numbers by hand, against what sites judge by, and as a distribution."""

import numpy as np
import pytest
import torch

from components.evaluation import survival_sums
from models.censoring import RAREST, censoring_of, lived


def drawn(count: int, hazard: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels [N, 2] of patients who are censored by chance until 5, and the times that would have been seen."""
    draw = torch.Generator().manual_seed(2)
    time = -torch.rand(count, generator=draw).log() / hazard
    seen = 5 * torch.rand(count, generator=draw)
    return torch.stack([torch.minimum(time, seen), (time <= seen).float()], dim=1), time


def test_the_curve_is_the_one_that_benefits_are_judged_by() -> None:
    labels, _ = drawn(300)
    labels[:, 0] = labels[:, 0].mul(4).ceil()  # ties of events and of what is censored
    found, judged = censoring_of(labels), survival_sums.censoring_of(labels.double().numpy())
    times = np.linspace(0, 22, 89)
    np.testing.assert_allclose(found.before(torch.tensor(times)).numpy(), judged.before(times), rtol=1e-12)
    assert RAREST == survival_sums.RAREST


def test_weights_make_up_for_those_who_were_censored() -> None:
    labels, time = drawn(20_000)
    part, weight = lived(labels, 3.0, censoring_of(labels))
    truth = time.clamp(max=3.0) / 3.0
    error = (weight * part).std().item() / 20_000**0.5
    assert weight.mean().item() == pytest.approx(1, abs=4 * weight.std().item() / 20_000**0.5)
    assert (weight * part).mean().item() == pytest.approx(truth.mean().item(), abs=4 * error)
    naive = part[weight > 0].mean().item()  # of those whose outcome is known, too few lived for long
    assert naive < truth.mean().item() - 10 * error


def test_nobody_counts_for_more_than_ten() -> None:
    labels = torch.tensor([[float(day), 0.0] for day in range(1, 41)] + [[41.0, 1.0]])
    _, weight = lived(labels, 50.0, censoring_of(labels))
    assert weight[-1].item() == 10
    assert (weight[:-1] == 0).all()


def test_where_nobody_is_censored_everybody_counts_once() -> None:
    labels = torch.tensor([[1.0, 1.0], [7.0, 1.0]])
    part, weight = lived(labels, 4.0, censoring_of(labels))
    assert part.tolist() == [0.25, 1.0]
    assert weight.tolist() == [1.0, 1.0]
