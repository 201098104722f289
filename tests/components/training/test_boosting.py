"""Federated trees are those of all rows in one place, bit for bit; scikit-learn's and XGBoost's; and what is told."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from components.assemble import study_mistakes
from components.data.site_data import open_site_data
from components.data.sources import plan_sources, pooled_source
from components.errors import StudyError
from components.simulation import Simulation
from components.study import Study
from components.training.boosting import TreeCells, add_up
from components.weights import digest
from flows.build import build_module, check_network
from models.trees import TreesModel
from tests.references.tiny_table import write_hospitals
from tests.references.tiny_trees import grown, trees_sections, trees_study


def rows_of(study: Study, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the training rows of all sites as they are in their tables, and their labels."""
    sites = [open_site_data(study, source, folder / "oracle") for source in plan_sources(study, folder)]
    return torch.cat([data.images("train") for data in sites]), torch.cat([data.labels("train") for data in sites])


def model_of(study: Study, result: Simulation) -> TreesModel:
    """Return the model after the last round."""
    module = build_module(study)
    assert isinstance(module, TreesModel)
    module.load_state_dict(result.state.weights, strict=False)
    return module


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_three_hospitals_give_the_trees_of_one_bit_for_bit(tmp_path: Path, kind: str) -> None:
    study = trees_study(trees=4, **({} if kind == "binary" else THREE_KINDS))
    write_hospitals(tmp_path)
    apart, _ = grown(study, tmp_path)
    together, _ = grown(study, tmp_path, [pooled_source(plan_sources(study, tmp_path))])
    found = [[round_.ref.weights for round_ in result.rounds] for result in (apart, together)]
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0]) == study.rounds.max
    assert (apart.state.weights["network.feature"] >= 0).sum() > 10


THREE_KINDS: dict = {
    "task": {"kind": "multiclass", "classes": ["none", "typical", "atypical"]},
    "data": {
        "columns": {"label": "pain", "patient": ""},
        "records": {
            "features": [
                {"name": "age", "range": [18, 100]},
                {"name": "chol", "range": [60, 700], "missing": [0]},
                {"name": "outcome", "type": "categorical", "categories": ["ill", "well", "unknown"]},
            ],
            "smallest_cell": 1,
        },
    },
}


def test_the_scores_are_scikit_learns_on_the_same_bins(tmp_path: Path) -> None:
    study = trees_study(trees=8, boosting={"min_child_weight": 0.001}, **NUMBERS)
    write_hospitals(tmp_path)
    result, _ = grown(study, tmp_path)
    rows, ill = rows_of(study, tmp_path)
    model = model_of(study, result)
    slots = model.network.slots_of(rows).double()
    bins = torch.where(torch.isnan(rows), torch.nan, slots).numpy()  # what it cuts into bins again are the bins
    oracle = HistGradientBoostingClassifier(
        learning_rate=0.3, max_iter=8, max_depth=3, max_leaf_nodes=None, min_samples_leaf=1, l2_regularization=1.0,
        early_stopping=False,
    ).fit(bins, ill)  # fmt: skip
    scores = torch.sigmoid(model(rows.double())).detach()[:, 0].numpy()
    np.testing.assert_allclose(scores, oracle.predict_proba(bins)[:, 1], atol=2e-6)
    assert np.ptp(scores) > 0.5


def test_the_scores_are_xgboosts_on_the_same_bins_with_categories(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="xgboost-cpu is for Linux alone")
    study = trees_study(trees=6)
    write_hospitals(tmp_path)
    result, _ = grown(study, tmp_path)
    rows, ill = rows_of(study, tmp_path)
    model = model_of(study, result)
    slots = model.network.slots_of(rows).double()
    bins = torch.where(torch.isnan(rows), torch.nan, slots).numpy()
    matrix = xgboost.DMatrix(bins, ill.numpy(), feature_types=["q", "q", "q", "c"], enable_categorical=True)
    oracle = xgboost.train(
        {
            "objective": "binary:logistic", "eta": 0.3, "max_depth": 3, "lambda": 1.0, "min_child_weight": 1.0,
            "tree_method": "hist", "max_bin": 256, "max_cat_to_onehot": 100, "base_score": float(ill.double().mean()),
            "nthread": 1,
        },
        matrix,
        6,
    )  # fmt: skip
    scores = torch.sigmoid(model(rows.double())).detach()[:, 0].numpy()
    np.testing.assert_allclose(scores, oracle.predict(matrix), atol=2e-6)
    assert (result.state.weights["network.feature"] == 3).any()  # a category was used


NUMBERS: dict = {
    "data": {
        "records": {
            "features": [
                {"name": "age", "unit": "years", "range": [18, 100]},
                {"name": "chol", "unit": "mg/dl", "range": [60, 700], "missing": [0]},
                {"name": "sex", "type": "boolean"},
            ],
            "smallest_cell": 1,
        }
    }
}


def test_no_hospital_and_no_version_learns_the_sums_of_all(tmp_path: Path) -> None:
    study = trees_study(trees=1)
    write_hospitals(tmp_path)
    result, _ = grown(study, tmp_path)
    assert not result.state.weights["network.sums"].any()


def test_a_training_whose_trees_are_all_grown_changes_nothing_more(tmp_path: Path) -> None:
    study = trees_study(trees=1, depth=1)
    write_hospitals(tmp_path)
    longer = study.model_copy(update={"rounds": study.rounds.model_copy(update={"max": 3})})
    result, _ = grown(longer, tmp_path)
    assert result.rounds[2].ref.weights == result.rounds[1].ref.weights
    assert digest(result.state.weights) == result.rounds[1].ref.weights


@st.composite
def trees(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Slots of rows in two numbers and a category, which way each row goes, which nodes are split, and a smallest."""
    rows = draw(st.integers(0, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = random.choice([0, 1, 2, 3, 5], size=(rows, 3), p=[0.5, 0.25, 0.12, 0.08, 0.05])  # 5 is missing
    return (
        values,
        random.random((rows, 7)) < draw(st.sampled_from([0.05, 0.3, 0.5])),
        random.random(7) < 0.9,
        draw(st.integers(1, 6)),
    )


@given(given_=trees())
@settings(deadline=None)
def test_whatever_follows_from_a_tree_rests_on_no_row_or_on_enough(given_: Any) -> None:
    slots, right, split, smallest = given_
    cells = TreeCells(slots, np.array([False, False, True]), 6, smallest)
    last_nodes, last_told = np.zeros(0), np.zeros((0, 0))
    for level in range(3):
        nodes, told = cells.at_level(level, right, split)
        if len(slots) >= smallest:
            for feature in range(3):
                found = Counter(zip(nodes[nodes >= 0].tolist(), told[nodes >= 0, feature].tolist(), strict=True))
                assert not [count for count in found.values() if count < smallest]
        # A cell of a node is not divided among cells of its children: their sum is a sum of its cells.
        for feature in range(3 if level else 0):
            went: dict[tuple[int, int], int] = {}
            for row in np.flatnonzero(nodes >= 0):
                parent, own = int(last_nodes[row]), (int(last_told[row, feature]), int(told[row, feature]))
                assert went.setdefault((parent, own[0]), own[1]) == own[1]
        last_nodes, last_told = nodes, told


def test_without_disclosure_control_every_row_is_told_where_it_is() -> None:
    slots = np.array([[0], [3], [5]])
    nodes, told = TreeCells(slots, np.array([False]), 6, 1).at_level(
        1, np.array([[False], [True], [True]]), np.array([True])
    )
    assert nodes.tolist() == [1, 2, 2]
    assert told.tolist() == slots.tolist()


def test_two_patients_in_one_child_are_told_with_its_sibling() -> None:
    slots = np.zeros((9, 1), dtype=np.int64)
    right = np.array([[True]] * 2 + [[False]] * 7)
    nodes, _ = TreeCells(slots, np.array([False]), 6, 5).at_level(1, right, np.array([True]))
    assert set(nodes.tolist()) == {1}


def test_a_hospital_with_fewer_rows_than_a_cell_needs_tells_nothing() -> None:
    study = trees_study(trees=1, smallest_cell=5)
    module = build_module(study)
    assert isinstance(module, TreesModel)
    module.network.place.zero_()
    rows, slopes = torch.zeros(4, 4), torch.ones(4, 1, 2, dtype=torch.float64)
    add_up(module.network, rows, slopes, smallest_cell=5)
    assert not module.network.sums.any()
    add_up(module.network, rows, slopes, smallest_cell=4)
    assert module.network.sums[0, 0].sum(dim=(1, 2)).tolist() == [8.0] * 4


def test_disclosure_control_changes_the_trees_and_keeps_what_they_know(tmp_path: Path) -> None:
    write_hospitals(tmp_path)
    exact, _ = grown(trees_study(), tmp_path)
    told, _ = grown(trees_study(smallest_cell=5), tmp_path)
    losses = [result.best.evaluation.metrics["loss"].value for result in (exact, told)]
    assert exact.rounds[-1].ref.weights != told.rounds[-1].ref.weights
    assert abs(losses[0] - losses[1]) < 0.05


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"strategy": {"name": "FedAvg"}}, "strategy.name", "given FedAvg; must be HistogramBoosting"),
        ({"network": {"name": "MLP", "arguments": {}}}, "strategy.name", "it grows trees; must be another"),
        ({"task": {"classes": ["well", "ill"], "imbalance": "focal"}}, "task.imbalance", "must be none"),
        ({"local": {"epochs": 3}}, "local.epochs", "leave it out"),
        ({"local": {"method": "newton"}}, "local.method", "leave it out"),
        ({"rounds": {"late": "discount"}}, "rounds.late", "must be drop"),
        ({"rounds": {"max_change": 3.0}}, "rounds.max_change", "leave it out"),
        ({"rounds": {"mode": "async"}}, "strategy.name", "with rounds.mode: async"),
        ({"data": {"records": {"features": [{"name": "age"}]}}}, "data.records.features[0].range", "age is cut into"),
    ],
)
def test_a_study_that_trees_cannot_have_is_refused_with_its_field(changes: dict, field: str, words: str) -> None:
    study = Study.model_validate(trees_sections() | sections_with(changes))
    found = [str(mistake) for mistake in study_mistakes(study)]
    assert [text for text in found if text.startswith(f"{field}: ") and words in text], found


def sections_with(changes: dict) -> dict:
    """The sections of a study with trees that are changed, whole."""
    before = trees_sections()
    return {
        name: value if name in ("strategy", "network", "task") else {**before[name], **value}
        for name, value in changes.items()
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": {"max": 17, "convergence": None}}, "given 17; must be at most 16: after one round for the first"),
        ({"network": {"name": "BoostedTrees", "arguments": {"deep": 2}}}, "no argument 'deep'; did you mean 'depth'?"),
        ({"network": {"name": "BoostedTrees", "arguments": {"depth": 20}}}, "depth: "),
    ],
)
def test_a_shape_that_trees_cannot_have_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(StudyError) as caught:
        check_network(trees_study(**changes))
    assert words in str(caught.value)
