"""Federated Newton is the pooled fit: scikit-learn's coefficients on all rows in one place, to 1e-6."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from components.assemble import assemble, study_mistakes
from components.data.site_data import open_site_data
from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.errors import RefusedError
from components.exchange.store import FolderStore
from components.simulation import Simulation, simulate
from components.study import Study
from flows.build import build_module
from flows.dispatch import InProcessDispatcher
from flows.readiness import fitted_to
from tests.references.tiny_table import Patient, table_study, write_hospitals

LASSO = 0.05
NEWTON = {"method": "newton", "epochs": 1, "optimizer": {"learning_rate": 1.0}}


def trained(study: Study, folder: Path, rounds: int = 9) -> tuple[Simulation, InProcessDispatcher]:
    """Train the study on the tables of a folder, in this process."""
    study = study.model_copy(update={"rounds": study.rounds.model_copy(update={"max": rounds})})
    settings = {
        source.name: SiteSetting(
            study=study, source=source, state=str(folder / source.name / "s"), store=str(folder / "store")
        )
        for source in plan_sources(study, folder)
    }
    with closing(InProcessDispatcher(settings)) as dispatcher:
        found = {site: dispatcher.prepare(site).result() for site in settings}
        initial = dispatcher.initialise(study, fitted_to(study, found)).result()
        strategy, store = assemble(study).strategy, FolderStore(folder / "store")
        result = simulate(study, strategy, dispatcher, store, sites=list(settings), training="t", initial=initial)
    return result, dispatcher


def pooled(study: Study, folder: Path, result: Simulation) -> tuple[np.ndarray, np.ndarray]:
    """Return the training rows of all sites as the network sees them, and their labels."""
    module = build_module(study)
    module.load_state_dict(result.state.weights, strict=False)
    sites = [open_site_data(study, source, folder / "oracle") for source in plan_sources(study, folder)]
    rows = torch.cat([module.inputs(data.images("train")) for data in sites])  # type: ignore[operator]
    return rows.double().numpy(), torch.cat([data.labels("train") for data in sites]).numpy()


@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_the_weights_are_those_of_the_pooled_fit(tmp_path: Path, ridge: float) -> None:
    local = {**NEWTON, "optimizer": {"learning_rate": 1.0, "weight_decay": ridge}}
    study = table_study(local=local)
    write_hospitals(tmp_path)
    result, _ = trained(study, tmp_path)
    rows, ill = pooled(study, tmp_path, result)
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)  # the intercept is penalised, too
    strength = np.inf if ridge == 0 else 1 / (ridge * len(rows))
    oracle = LogisticRegression(C=strength, fit_intercept=False, solver="newton-cholesky", tol=1e-14).fit(rows, ill)
    weights = result.state.weights
    found = np.concatenate([weights["network.weight"][0].numpy(), weights["network.bias"].numpy()])
    np.testing.assert_allclose(found, oracle.coef_[0], atol=1e-6)
    assert np.abs(found).max() > 0.3


@pytest.mark.parametrize("ridge", [0.0, 0.02])
def test_with_a_lasso_the_weights_are_those_of_the_pooled_elastic_net(tmp_path: Path, ridge: float) -> None:
    """By its conditions: no slope where a coefficient is not 0, and none above the lasso where it is."""
    local = {**NEWTON, "lasso": LASSO, "optimizer": {"learning_rate": 1.0, "weight_decay": ridge}}
    study = table_study(local=local)
    write_hospitals(tmp_path)
    result, _ = trained(study, tmp_path, rounds=15)
    rows, ill = pooled(study, tmp_path, result)
    weights = result.state.weights["network.weight"][0].double().numpy()
    intercept = result.state.weights["network.bias"].double().item()
    residual = 1 / (1 + np.exp(-(rows @ weights + intercept))) - ill
    slopes = rows.T @ residual / len(rows) + ridge * weights
    kept = weights != 0
    assert 0 < kept.sum() < len(weights)
    np.testing.assert_allclose(slopes[kept], -LASSO * np.sign(weights[kept]), atol=2e-6)
    assert np.abs(slopes[~kept]).max() < LASSO
    assert abs(residual.mean() + ridge * intercept) < 2e-6
    if not ridge:  # whose intercept scikit-learn does not penalise either
        oracle = LogisticRegression(
            C=1 / (LASSO * len(rows)), l1_ratio=1.0, solver="saga", tol=1e-12, max_iter=100_000, random_state=1
        ).fit(rows, ill)
        np.testing.assert_allclose(weights, oracle.coef_[0], atol=1e-5)


def test_a_lasso_without_newton_is_refused() -> None:
    study = table_study(local={"epochs": 1, "lasso": 0.1})
    assert [mistake.text for mistake in study_mistakes(study)] == ["given 0.1; it goes with local.method: newton alone"]


def test_however_the_rows_are_split_into_sites_the_result_is_the_same(tmp_path: Path) -> None:
    write_hospitals(tmp_path)
    study = table_study(local=NEWTON)
    three, _ = trained(study, tmp_path)
    rows, ill = pooled(study, tmp_path, three)
    mean = three.state.weights["network.gradient"].double()
    chance = 1 / (1 + np.exp(-(rows @ three.state.weights["network.weight"][0].double().numpy()
                               + three.state.weights["network.bias"].double().item())))  # fmt: skip
    expected = np.concatenate([rows.T @ (chance - ill), [(chance - ill).sum()]]) / len(rows)
    np.testing.assert_allclose(mean.numpy(), expected, atol=1e-7)
    assert np.abs(expected).max() < 1e-6  # at the lowest point


def test_separated_classes_are_refused_with_what_helps(tmp_path: Path) -> None:
    def separate(_: str, rows: list[Patient]) -> list[Patient]:
        return [row | {"outcome": "ill" if row["age"] > 58 else "well"} for row in rows]

    write_hospitals(tmp_path, separate)
    with pytest.raises(RefusedError, match="cannot be inverted: the features tell the classes apart"):
        trained(table_study(local=NEWTON), tmp_path, rounds=40)


def test_a_ridge_makes_separated_classes_trainable(tmp_path: Path) -> None:
    def separate(_: str, rows: list[Patient]) -> list[Patient]:
        return [row | {"outcome": "ill" if row["age"] > 58 else "well"} for row in rows]

    write_hospitals(tmp_path, separate)
    local = {**NEWTON, "optimizer": {"learning_rate": 1.0, "weight_decay": 0.001}}
    result, _ = trained(table_study(local=local), tmp_path, rounds=20)
    assert result.best.evaluation.metrics["auroc"].value > 0.99


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"network": {"name": "MLP"}}, "network.name"),
        ({"strategy": {"name": "FedAdam"}}, "strategy.name"),
        ({"strategy": {"name": "FedAvg", "weighting": "uniform"}}, "strategy.weighting"),
        ({"task": {"classes": ["well", "ill"], "imbalance": "weighted_loss"}}, "task.imbalance"),
        ({"local": {**NEWTON, "epochs": 3}}, "local.epochs"),
    ],
)
def test_what_would_not_be_exact_is_refused(changes: dict, field: str) -> None:
    found = [str(mistake) for mistake in study_mistakes(table_study(**{"local": NEWTON, **changes}))]
    assert any(text.startswith(f"{field}: ") and "with local.method: newton" in text for text in found)
