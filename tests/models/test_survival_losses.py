"""Cox's losses against lifelines and a loop over patients; discrete hazards against a loop over cells."""

import math

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lifelines import CoxPHFitter

from models.survival_losses import Ties, cox_losses, hazard_losses


def patients(count: int, seed: int, *, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and labels; with ties if times are whole."""
    random = np.random.default_rng(seed)
    times = random.exponential(5.0, count)
    labels = np.stack([np.ceil(times) if whole else times, random.random(count) < 0.6], axis=1)
    return torch.from_numpy(random.normal(size=count)), torch.from_numpy(labels)


def naive(scores: torch.Tensor, labels: torch.Tensor, ties: Ties) -> float:
    """Add up the partial likelihood, one time after the other."""
    total, (times, events) = 0.0, labels.T
    for now in sorted(set(times[events > 0].tolist())):
        dying = (times == now) & (events > 0)
        at_risk, risk = scores[times >= now].exp().sum().item(), scores[dying].exp().sum().item()
        count = int(dying.sum())
        for rank in range(count):
            total += math.log(at_risk - (rank / count * risk if ties == "efron" else 0.0))
        total -= scores[dying].sum().item()
    return total


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@given(seed=st.integers(0, 1000), count=st.integers(1, 40), whole=st.booleans())
def test_the_parts_add_up_to_the_partial_likelihood(ties: Ties, seed: int, count: int, whole: bool) -> None:
    scores, labels = patients(count, seed, whole=whole)
    found = cox_losses(scores, labels, ties)
    assert found.sum().item() == pytest.approx(naive(scores, labels, ties), abs=1e-9)
    assert (found[labels[:, 1] == 0] == 0).all()


def test_the_loss_at_lifelines_coefficients_is_lifelines_likelihood() -> None:
    scores, labels = patients(200, 3, whole=True)
    frame = pandas.DataFrame({"x": scores.numpy(), "time": labels[:, 0].numpy(), "event": labels[:, 1].numpy()})
    fitted = CoxPHFitter().fit(frame, "time", "event")
    found = cox_losses(fitted.params_["x"] * (scores - scores.mean()), labels, "efron").sum()
    assert -found.item() == pytest.approx(fitted.log_likelihood_, rel=1e-9)


def test_far_scores_and_no_events_give_finite_gradients() -> None:
    scores = torch.tensor([900.0, -900.0, 0.0], requires_grad=True)
    for labels in (torch.tensor([[1.0, 1], [2, 1], [3, 1]]), torch.tensor([[1.0, 0], [2, 0], [3, 0]])):
        (gradient,) = torch.autograd.grad(cox_losses(scores, labels).sum(), scores)
        assert torch.isfinite(gradient).all()


@given(seed=st.integers(0, 1000))
def test_hazards_are_those_of_the_cells_that_each_patient_saw(seed: int) -> None:
    scores, labels = patients(20, seed, whole=False)
    edges = [1.0, 2.5, 4.0, 8.0]
    logits = torch.stack([scores, -scores, scores / 2, scores * 0], dim=1)
    for item, (time, event) in enumerate(labels.tolist()):
        expected, low = 0.0, 0.0
        for cell, high in enumerate(edges):
            hazard = 1 / (1 + math.exp(-logits[item, cell].item()))
            if event and low < time <= high:
                expected -= math.log(hazard)
            elif time > high or (not event and time >= (low + high) / 2):
                expected -= math.log(1 - hazard)
            low = high
        assert hazard_losses(logits, labels, edges)[item].item() == pytest.approx(expected, abs=1e-9)
