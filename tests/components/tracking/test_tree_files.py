"""Trees as XGBoost loads them: the same scores for every kind of task, and contributions that add up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.rounds import Update
from components.strategies import HistogramBoosting
from components.tracking.tree_files import XGBOOST, tree_files, xgboost_model
from components.training.boosting import add_up
from models.base import Objective
from models.trees import TreesModel
from tests.references.tiny_table import table_study
from tests.references.tiny_trees import trees_study

CATEGORIES = (0, 2, 4)


def made_up(kind: str, rows: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a number, a boolean and a category, a tenth of each missing, and labels that depend on them."""
    random = np.random.default_rng(4)
    columns = [random.normal(size=rows), random.integers(0, 2, rows), random.integers(0, 4, rows)]
    table = torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)
    risk = table[:, 0] + table[:, 1] * (table[:, 2] == 2) * 2 + torch.from_numpy(random.normal(size=rows)) * 0.3
    table[torch.from_numpy(random.random((rows, 3)) < 0.1)] = torch.nan
    if kind == "multilabel":
        return table, torch.stack([risk > 0, table[:, 2] == 1, risk < -0.5], dim=1).float()
    return table, (risk > 0.3).long() if kind == "binary" else torch.bucketize(risk, torch.tensor([-0.3, 0.6]))


def grow(kind: Any, *, rounds: int, trees: int = 4) -> tuple[TreesModel, torch.Tensor]:
    """Grow trees on made-up rows in one place."""
    rows, labels = made_up(kind)
    arguments = {"trees": trees, "depth": 3, "bins": 16}
    model = TreesModel(CATEGORIES, arguments, objective=Objective(kind, 2 if kind == "binary" else 3))
    edges = torch.nanquantile(rows[:, 0], torch.linspace(0.1, 0.9, 12)).tolist()
    model.network.set_edges([edges, [0.5], []])
    strategy = HistogramBoosting(learning_rate=0.4)
    state = strategy.init(dict(model.state_dict()))
    for round_number in range(1, rounds + 1):
        model.load_state_dict(state.weights, strict=False)
        add_up(model.network, rows, torch.stack(model.slopes(rows, labels), dim=2), 1)
        sent = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state = strategy.aggregate(state, [Update("a", round_number, sent, weight=len(rows))])
    model.load_state_dict(state.weights, strict=False)
    return model, rows


def loaded(model: TreesModel, folder: Path) -> Any:
    xgboost = pytest.importorskip("xgboost", reason="xgboost-cpu is for Linux alone")
    entries = {name.removeprefix("network."): tensor for name, tensor in model.state_dict().items()}
    written = xgboost_model(entries, names=["x", "flag", "place"], kind=model.objective.kind)
    (folder / "model.json").write_text(json.dumps(written))
    return xgboost.Booster(model_file=folder / "model.json", params={"nthread": 1})


def matrix(booster: Any, rows: torch.Tensor) -> Any:
    xgboost = pytest.importorskip("xgboost")
    names = {"feature_names": booster.feature_names, "feature_types": booster.feature_types}
    return xgboost.DMatrix(rows.numpy(), enable_categorical=True, nthread=1, **names)


@pytest.mark.parametrize("rounds", [1, 3, 13])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_xgboost_gives_the_scores_of_every_version(tmp_path: Path, kind: str, rounds: int) -> None:
    model, rows = grow(kind, rounds=rounds)
    booster = loaded(model, tmp_path)
    with torch.no_grad():
        expected = model.probabilities(model(rows)).numpy()
    found = booster.predict(matrix(booster, rows)).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (np.ptp(expected, axis=0) > 0.3).all() == (rounds > 1)
    if rounds == 13:
        assert {int(value) for value in model.network.feature.unique()} == {-1, 0, 1, 2}  # every kind of column is used


def test_contributions_add_up_to_the_logit(tmp_path: Path) -> None:
    model, rows = grow("binary", rounds=13)
    booster = loaded(model, tmp_path)
    found = booster.predict(matrix(booster, rows), pred_contribs=True)
    with torch.no_grad():
        np.testing.assert_allclose(found.sum(axis=1), model(rows)[:, 0].numpy(), atol=1e-5)
    assert (np.abs(found[:, :3]).max(axis=0) > 0.1).all()


def test_values_at_an_edge_and_beyond_what_was_seen_go_the_same_way(tmp_path: Path) -> None:
    model, _ = grow("binary", rounds=13)
    booster = loaded(model, tmp_path)
    at = [*model.network.edges[0][:12].tolist(), -1e6, 1e6, torch.nan]
    rows = torch.tensor([[value, flag, place] for value in at for flag in (0.0, 1.0) for place in (0.0, 2.0, 3.0)])
    with torch.no_grad():
        expected = model.probabilities(model(rows))[:, 0].numpy()
    np.testing.assert_allclose(booster.predict(matrix(booster, rows)), expected, atol=1e-6)


def test_only_trees_have_the_file() -> None:
    assert tree_files(table_study(), {}) == {}
    model, _ = grow("binary", rounds=1)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "class_weights"}
    assert list(tree_files(trees_study(), weights)) == [XGBOOST]
