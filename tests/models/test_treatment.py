"""Learners of benefits: each fit as if alone, against scikit-learn; resampling; the exported program."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from models.base import Objective, OptimizerSettings
from models.serving import ServedTreatment, export_program
from models.tabular import TableArchitecture
from models.treatment import TreatmentDesign, TreatmentModel, resampled

NAN = float("nan")


def model(learner: str = "t", name: str = "LogisticRegression", **changes: Any) -> TreatmentModel:
    arguments = {} if name == "LogisticRegression" else {"widths": [8], **changes.pop("arguments", {})}
    design = TreatmentDesign(**{"learner": learner, "members": 10, "propensity": 0.5, **changes})
    return TreatmentModel(
        TableArchitecture(name, [0, 0], [False, False], arguments),
        objective=Objective("binary", 2), optimizer=OptimizerSettings("sgd", 0.5), design=design, seed=3,
    )  # fmt: skip


def trial(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, 3], the arm last, and labels: the second class is rarer in the second arm where x is above 0."""
    random = np.random.default_rng(0)
    table, arm = random.normal(size=(count, 2)), random.integers(0, 2, count)
    ill = random.random(count) < 1 / (1 + np.exp(-(0.3 * table[:, 1] - arm * table[:, 0])))
    rows = np.concatenate([table, arm[:, None]], axis=1)
    return torch.tensor(rows, dtype=torch.float32), torch.tensor(ill.astype(np.int64))


def fit(module: TreatmentModel, steps: int = 400, *, count: int = 400, adam: float = 0.0) -> None:
    """Train with full batches, as a site does."""
    settings = OptimizerSettings("adam", adam) if adam else module.optimizer_settings
    batch, optimizer = trial(count), settings.build(module.parameters())
    for step in range(steps):
        if step % 100 == 0:
            module.on_train_start()  # a round begins
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        optimizer.step()
    module.on_train_end()


def test_each_arm_has_the_logistic_regression_of_its_own_patients() -> None:
    module = model()
    fit(module, 1500)
    rows, labels = trial()
    for arm in (0, 1):
        mine = rows[:, 2] == arm
        oracle = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(rows[mine, :2].numpy(), labels[mine].numpy())
        found = module.network.outcome.layers[0].weight.detach()[arm * 11, :, 0].numpy()
        assert found == pytest.approx(oracle.coef_[0], abs=2e-3)


def test_a_member_has_the_logistic_regression_of_its_resampled_patients() -> None:
    module = model()
    fit(module, 1500)
    rows, labels = trial()
    weights = resampled(torch.cat([rows, labels.reshape(-1, 1).float()], dim=1), 10)[4]
    mine = rows[:, 2] == 1
    oracle = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000)
    oracle.fit(rows[mine, :2].numpy(), labels[mine].numpy(), sample_weight=weights[mine].numpy())
    found = module.network.outcome.layers[0].weight.detach()[11 + 4, :, 0].numpy()
    assert found == pytest.approx(oracle.coef_[0], abs=2e-3)


def test_a_patients_weights_are_poisson_and_his_own_wherever_he_stands() -> None:
    rows = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
    rows[3, 2] = NAN
    found = resampled(rows, 20)
    assert (found[0] == 1).all()
    assert torch.equal(resampled(rows.flip(0), 20).flip(1), found)
    drawn = found[1:]
    # 80 000 draws of mean 1 and variance 1: both within 4 standard errors
    assert abs(drawn.mean().item() - 1) < 4 / 80_000**0.5
    assert abs(drawn.var().item() - 1) < 4 * (3 / 80_000) ** 0.5
    shares = [(drawn == count).float().mean().item() for count in range(4)]
    assert shares == pytest.approx([0.3679, 0.3679, 0.1839, 0.0613], abs=0.008)
    together = torch.corrcoef(drawn)
    assert (together - torch.eye(20)).abs().max() < 0.08


@pytest.mark.parametrize(("learner", "name"), [("t", "LogisticRegression"), ("x", "MLP"), ("single", "MLP")])
def test_every_learner_finds_for_whom_the_second_arm_is_better(learner: str, name: str) -> None:
    module = model(learner, name)
    fit(module, count=2000, adam=0.02)
    rows = torch.tensor([[1.5, 0.0], [-1.5, 0.0]])
    first, second, benefit, low, high = module.eval().recommend(rows).unbind(1)
    assert benefit[0] > 0.2
    assert benefit[1] < -0.2
    assert ((low < benefit) & (benefit < high)).all()
    assert ((first > 0) & (second < 1)).all()


def test_what_is_wanted_turns_the_benefit_round() -> None:
    one, other = model(better=0), model(better=1)
    fit(one, 50)
    other.load_state_dict(one.state_dict())
    rows = trial()[0]
    found = [module.recommend(rows) for module in (one, other)]
    assert torch.equal(found[0][:, 2], -found[1][:, 2])
    assert torch.equal(found[0][:, 0], found[1][:, 0])


def test_pseudo_effects_come_from_what_the_round_began_with() -> None:
    module = model("x")
    rows, labels = trial(4)
    with torch.no_grad():
        module.network.outcome.layers[0].bias[:11] += 1.0
        module.network.outcome.layers[0].bias[11:] -= 2.0
    module.on_train_start()
    with torch.no_grad():
        module.network.outcome.layers[0].bias.zero_()
    truth = labels.float().expand(11, -1)
    inputs, arm = module._divided(rows)
    first, second = torch.sigmoid(torch.tensor(1.0)), torch.sigmoid(torch.tensor(-2.0))
    expected = torch.where(arm, truth - first, second - truth)
    assert torch.allclose(module._pseudo_effects(inputs, arm, truth), expected)
    module.on_train_end()
    assert torch.allclose(module._pseudo_effects(inputs, arm, truth), torch.where(arm, truth - 0.5, 0.5 - truth))


def test_an_x_learner_weights_its_effects_by_the_other_arms_chance() -> None:
    module = model("x", propensity=0.8)
    with torch.no_grad():
        module.network.effect.layers[0].bias[:11] = 0.1  # type: ignore[union-attr]
        module.network.effect.layers[0].bias[11:] = 0.3  # type: ignore[union-attr]
    benefit = module.recommend(torch.zeros(1, 2))[0, 2].item()
    assert benefit == pytest.approx(-(0.8 * 0.1 + 0.2 * 0.3))


def test_the_chance_of_an_arm_is_fitted_where_nobody_knows_it() -> None:
    observed, drawn, known = model(propensity=None, randomised=False), model(propensity=None), model(propensity=0.3)
    rows, labels = trial()
    rows[:, 2] = (rows[:, 0] + 0.3 * rows[:, 1] > 0.2).float()
    for module in (observed, drawn, known):
        optimizer = OptimizerSettings("sgd", 0.5).build(module.parameters())
        for step in range(300):
            optimizer.zero_grad()
            module.training_step((rows, labels), step).backward()
            optimizer.step()
    given = [module.benefit(rows)[1] for module in (observed, drawn, known)]
    assert ((given[0] > 0.5) == (rows[:, 2] > 0.5)).float().mean() > 0.9
    assert given[1].unique().tolist() == pytest.approx([rows[:, 2].mean().item()], abs=0.01)
    assert given[2].unique().tolist() == pytest.approx([0.3])


def test_the_loss_that_is_told_is_the_models_own() -> None:
    module, (rows, labels) = model(), trial()
    loss = module.training_step((rows, labels), 0)
    assert loss.item() == pytest.approx(module.item_losses(module(rows), labels).mean().item(), rel=1e-6)


@pytest.mark.parametrize(("learner", "name"), [("t", "LogisticRegression"), ("x", "MLP"), ("single", "MLP")])
@pytest.mark.parametrize("randomised", [True, False])
def test_the_exported_program_says_what_the_model_says(learner: str, name: str, randomised: bool) -> None:
    module = model(learner, name, randomised=randomised, propensity=None)
    fit(module, 20)
    program = export_program(ServedTreatment(module.inputs, module.network), (2,))
    rows = torch.tensor([[1.0, 2.0], [NAN, -1.0], [0.0, 0.0]])
    assert torch.allclose(program.module()(rows), module.eval().recommend(rows), atol=1e-6)
    assert set(program.state_dict) == set(module.state_dict())


def test_batch_normalisation_is_the_stacked_networks_own() -> None:
    module = model("t", "MLP", arguments={"norm": "batch"})
    assert any(isinstance(layer, torch.nn.BatchNorm1d) for layer in module.modules())
    fit(module, 10)
    assert torch.isfinite(module.eval().recommend(trial()[0])).all()


def test_the_layers_that_say_they_are_output_layers_are_those_that_outcomes_and_effects_come_from() -> None:
    network = model("x", "MLP").network
    for layer in network.modules():
        if getattr(layer, "is_output_layer", False):
            for parameter in layer.parameters():
                torch.nn.init.zeros_(parameter)
    inputs = torch.rand(5, network.outcome.layers[0].weight.shape[1])
    assert not network.outcomes(inputs).any()
    assert not network.effects(inputs).any()
    assert network.outcome.layers[0].weight.any()


def test_what_cannot_be_a_treatment_model_is_refused() -> None:
    with pytest.raises(ValueError, match="CNN takes images"):
        model(name="CNN", arguments={"widths": [8]})
    with pytest.raises(ValueError, match="binary objective"):
        TreatmentModel(
            TableArchitecture("MLP", [0], [False], {}), objective=Objective("multiclass", 3),
            optimizer=OptimizerSettings(), design=TreatmentDesign(), seed=1,
        )  # fmt: skip
