"""Risk models: what is done to the columns, logistic regression against scikit-learn, the exported program."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from models.base import Objective, OptimizerSettings
from models.serving import ServedRisk, export_program
from models.tabular import RiskModel, TableArchitecture, TableInput

NAN = float("nan")


def model(name: str = "LogisticRegression", kind: str = "binary", **arguments: object) -> RiskModel:
    architecture = TableArchitecture(name, [0, 3, 2], [True, False, False], arguments)
    objective = Objective(kind, 2 if kind == "binary" else 3)  # type: ignore[arg-type]
    return RiskModel(architecture, objective=objective, optimizer=OptimizerSettings("sgd", 1.0), seed=3)


def test_columns_are_filled_scaled_and_spread_over_categories() -> None:
    inputs = TableInput(TableArchitecture("MLP", [0, 3, 2], [True, False, False], {}))
    inputs.set_fitted([10.0, 1.0, 0.0], [10.0, 0.0, 0.0], [2.0, 1.0, 1.0])
    rows = torch.tensor([[14.0, 2.0, 1.0], [NAN, NAN, NAN]])
    # scaled number; second and third category; boolean; whether the number was missing
    assert inputs(rows).tolist() == [[2.0, 0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0]]
    assert inputs.width == 5


def test_what_was_fitted_travels_with_the_weights_and_is_not_trained() -> None:
    module = model()
    assert {"inputs.fill", "inputs.mean", "inputs.scale"} < module.state_dict().keys()
    assert {name for name, _ in module.named_parameters()} == {"network.weight", "network.bias"}


def test_logistic_regression_finds_what_scikit_learn_finds() -> None:
    random = np.random.default_rng(0)
    table = np.stack([random.normal(size=400), random.integers(0, 3, 400), random.integers(0, 2, 400)], axis=1)
    ill = (random.random(400) < 1 / (1 + np.exp(-table[:, 0] - (table[:, 1] == 2) + 0.5))).astype(int)
    module = model()
    rows, labels = torch.tensor(table, dtype=torch.float32), torch.tensor(ill)
    solver = torch.optim.LBFGS(module.parameters(), max_iter=200, tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = module.loss(module(rows), labels)
        loss.backward()
        return loss

    solver.step(closure)
    oracle = LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000).fit(module.inputs(rows)[:, :4].numpy(), ill)
    assert module.network.weight.detach().numpy()[0, :4] == pytest.approx(oracle.coef_[0], abs=2e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("name", ["LogisticRegression", "MLP"])
def test_the_exported_program_takes_rows_with_gaps_and_says_what_the_model_says(name: str, kind: str) -> None:
    module = model(name, kind).eval()
    module.inputs.set_fitted([10.0, 1.0, 0.0], [10.0, 0.0, 0.0], [2.0, 1.0, 1.0])
    program = export_program(ServedRisk(module.inputs, module.network, kind=kind), (3,))  # type: ignore[arg-type]
    rows = torch.tensor([[14.0, 2.0, 1.0], [NAN, NAN, NAN], [3.0, 0.0, 0.0]])
    assert torch.allclose(program.module()(rows), module.probabilities(module(rows)), atol=1e-6)
    assert set(program.state_dict) == set(module.state_dict())


def test_a_network_for_images_is_refused_for_a_table() -> None:
    with pytest.raises(ValueError, match="CNN is no network for this task; a table needs a linear one or MLP"):
        model("CNN")


def test_a_perceptrons_last_layer_says_that_it_is_the_output() -> None:
    layers = [layer for layer in model("MLP").network if getattr(layer, "is_output_layer", False)]
    assert [layer.out_features for layer in layers] == [1]


def test_batch_normalisation_is_there_where_it_is_asked_for() -> None:
    kinds = [type(layer).__name__ for layer in model("MLP", widths=[8], norm="batch").network]  # type: ignore[arg-type]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
