"""Survival by arm: losses against the plain ones, DeepSurv's recommender, mean survival, baselines, the program."""

from typing import Any

import pytest
import torch

from models.base import OptimizerSettings
from models.serving import ServedTreatment, export_program
from models.survival import SurvivalObjective
from models.survival_losses import cox_losses
from models.tabular import TableArchitecture
from models.treatment import TreatmentDesign
from models.treatment_survival import SurvivalTreatmentModel, stacked_cox_losses

EDGES = [1.0, 2.0, 3.0, 4.0]
NAN = float("nan")
KINDS = [
    ("t", "cox", "Linear"), ("t", "hazards", "MLP"), ("x", "cox", "Linear"), ("x", "hazards", "MLP"),
    ("single", "cox", "MLP"), ("single", "hazards", "MLP"),
]  # fmt: skip


def model(learner: str = "t", loss: str = "cox", name: str = "Linear", **changes: Any) -> SurvivalTreatmentModel:
    return SurvivalTreatmentModel(
        TableArchitecture(name, [0, 0], [False, False], {} if name == "Linear" else {"widths": [8]}),
        objective=SurvivalObjective(EDGES, [3], loss),  # type: ignore[arg-type]
        optimizer=OptimizerSettings("adam", 0.02),
        design=TreatmentDesign(**{"learner": learner, "members": 10, "propensity": 0.5, **changes}),
        seed=3,
    )


def patients(count: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, 3], the arm last, and times with events: the second arm helps where x is above 0."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(count, 3, generator=draw)
    rows[:, 2] = (rows[:, 2] > 0).float()
    hazard = 0.4 * torch.exp(0.3 * rows[:, 1] - rows[:, 2] * rows[:, 0])
    time = -torch.rand(count, generator=draw).log() / hazard
    seen = 5 * torch.rand(count, generator=draw)
    return rows, torch.stack([torch.minimum(time, seen), (time <= seen).float()], dim=1)


def fit(module: SurvivalTreatmentModel, steps: int = 300) -> None:
    rows, labels = patients()
    optimizer = module.optimizer_settings.build(module.parameters())
    for step in range(steps):
        if step % 50 == 0:
            module.measure_baseline(rows, labels, 1)  # a round begins
        optimizer.zero_grad()
        module.training_step((rows, labels), step).backward()
        optimizer.step()
    module.measure_baseline(rows, labels, 1)


def test_stacked_losses_are_those_of_each_fit_alone() -> None:
    rows, labels = patients(50)
    labels[:, 0] = labels[:, 0].mul(4).ceil()  # ties
    scores = torch.stack([rows[:, 0], rows[:, 1]])
    found = stacked_cox_losses(scores, labels, torch.ones(2, 50))
    for fit_scores, losses in zip(scores, found, strict=True):
        assert torch.allclose(losses, cox_losses(fit_scores, labels, "breslow"), atol=1e-5)


def test_a_weight_is_as_many_patients_and_none_is_nobody() -> None:
    rows, labels = patients(40)
    weights = torch.arange(40) % 4
    found = stacked_cox_losses(rows[:, :1].T, labels, weights.float().unsqueeze(0)).sum()
    again = torch.repeat_interleave(torch.arange(40), weights)
    assert found.item() == pytest.approx(cox_losses(rows[again, 0], labels[again], "breslow").sum().item(), rel=1e-5)


def test_a_loss_without_events_has_a_gradient_of_zero() -> None:
    scores = torch.zeros(1, 3, requires_grad=True)
    stacked_cox_losses(scores, torch.tensor([[1.0, 0.0]] * 3), torch.zeros(1, 3)).sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(1, 3))


@pytest.mark.parametrize(("learner", "loss", "name"), KINDS)
def test_every_kind_finds_whom_the_second_arm_helps(learner: str, loss: str, name: str) -> None:
    module = model(learner, loss, name)
    fit(module)
    rows = torch.tensor([[1.5, 0.0], [-1.5, 0.0]])
    first, second, benefit, low, high = module.eval().recommend(rows).unbind(1)
    assert benefit[0] > 0.4
    assert benefit[1] < -0.4
    if learner != "x":
        assert torch.allclose(second - first, benefit, atol=1e-5)
    assert ((low < benefit) & (benefit < high)).all()
    assert ((first > 0) & (first < 4)).all()


def test_the_recommender_is_deepsurvs() -> None:
    module = model("single", "cox", "MLP")
    fit(module, 100)
    rows = patients()[0]
    scores = module.network.scores(module.inputs(rows[:, :2]))[:, 0, :, 0]
    longer = module.recommend(rows)[:, 2] > 0
    assert torch.equal(longer, scores[1] < scores[0])


def test_mean_survival_is_the_area_under_the_curve() -> None:
    module = model("t", "hazards")
    with torch.no_grad():
        for parameter in module.network.outcome.parameters():
            parameter.zero_()  # a half dies in each cell
    means = module.network.mean_survival(torch.zeros(1, 2))
    assert means[0, 0, 0].item() == pytest.approx((1 + 0.5) / 2 + (0.5 + 0.25) / 2 + 0.1875 + 0.09375)


def test_each_arm_has_the_baseline_of_its_own_patients() -> None:
    module = model("t", "cox")
    rows, labels = patients()
    module.measure_baseline(rows, labels, 1)
    survival = module.network.log_survival(torch.zeros(1, 2)).exp()
    for arm in (0, 1):
        mine = labels[rows[:, 2] == arm]
        died = ((mine[:, 0] <= 1) & (mine[:, 1] > 0)).sum()
        lived = mine[:, 0].clamp(max=1).sum()
        assert survival[arm, 0, 0, 0].item() == pytest.approx(torch.exp(-died / lived).item(), rel=1e-5)


@pytest.mark.parametrize(("learner", "loss", "name"), KINDS)
def test_judged_as_a_survival_model_it_says_the_survival_of_the_own_arm(learner: str, loss: str, name: str) -> None:
    module = model(learner, loss, name)
    fit(module, 20)
    rows, labels = patients()
    scores = module.eval()(rows)
    own = module.network.log_survival(module.inputs(rows[:, :2]))[:, 0].exp()
    expected = torch.where(rows[:, 2:] > 0.5, own[1], own[0])
    assert torch.allclose(module.baseline.survival(scores), expected, atol=1e-5)
    assert module.predictions(scores).shape == (1000, 2)
    assert torch.isfinite(module.item_losses(scores, labels)).all()


@pytest.mark.parametrize(("learner", "loss", "name"), KINDS)
def test_the_exported_program_says_what_the_model_says(learner: str, loss: str, name: str) -> None:
    module = model(learner, loss, name, randomised=False, propensity=None)
    fit(module, 20)
    program = export_program(ServedTreatment(module.inputs, module.network), (2,))
    rows = torch.tensor([[1.0, 2.0], [NAN, -1.0], [0.0, 0.0]])
    assert torch.allclose(program.module()(rows), module.eval().recommend(rows), atol=1e-5)
    assert set(program.state_dict) == set(module.state_dict())


def test_the_benefit_that_is_judged_is_a_part_of_the_horizon() -> None:
    module = model("t", "cox")
    fit(module, 50)
    rows = patients()[0]
    benefit, given, arm = module.benefit(rows)
    assert torch.allclose(benefit * 4.0, module.recommend(rows)[:, 2], atol=1e-6)
    assert given.unique().tolist() == [0.5]
    assert torch.equal(arm, rows[:, 2] > 0.5)


def test_pseudo_effects_come_from_what_the_round_began_with_and_from_known_outcomes() -> None:
    module, (rows, labels) = model("x"), patients(400)
    with torch.no_grad():
        module.network.baseline.events.fill_(0.1)  # type: ignore[union-attr]
        module.network.baseline.exposure.fill_(1.0)  # type: ignore[union-attr]
    expected = module.network.mean_survival(torch.zeros(1, 2))[:, 0, 0] / 4
    module.measure_baseline(rows, labels, 1)  # the site's own baseline is another
    module.on_train_start()
    with torch.no_grad():
        module.network.outcome.layers[0].weight.add_(1.0)
    inputs, arm = module._divided(rows)
    found, known = module._pseudo_effects(inputs, arm, labels)
    part = labels[:, 0].clamp(max=4) / 4
    assert torch.allclose(found[0], torch.where(arm, part - expected[0], expected[1] - part))
    assert torch.equal(known > 0, (labels[:, 1] > 0) | (labels[:, 0] >= 4))
    assert known.mean().item() == pytest.approx(1, abs=0.1)
    module.on_train_end()
    assert not module._began


def test_an_x_learner_of_survival_weights_its_effects_by_the_other_arms_chance() -> None:
    module = model("x", propensity=0.8)
    with torch.no_grad():
        module.network.effect.layers[0].bias[:11] = 0.1  # type: ignore[union-attr]
        module.network.effect.layers[0].bias[11:] = 0.3  # type: ignore[union-attr]
    assert module.recommend(torch.zeros(1, 2))[0, 2].item() == pytest.approx(4 * (0.8 * 0.1 + 0.2 * 0.3))


def test_who_is_censored_before_the_horizon_teaches_the_effects_nothing() -> None:
    module, (rows, labels) = model("x"), patients(300)
    module.measure_baseline(rows, labels, 1)
    unknown, other = (labels[:, 1] == 0) & (labels[:, 0] < 4), rows.clone()
    other[unknown, :2] += 3
    gradients = []
    for given in (rows, other):
        module.zero_grad()
        module.training_step((given, labels), 0).backward()
        gradients.append(module.network.effect.layers[0].weight.grad.clone())  # type: ignore[union-attr]
    assert unknown.any()
    assert gradients[0].abs().max() > 0
    assert torch.allclose(*gradients, atol=1e-7)
