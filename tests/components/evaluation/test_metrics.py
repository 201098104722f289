import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from components.evaluation.histograms import add_sums, empty_sums, sums_from_scores
from components.evaluation.intervals import wilson
from components.evaluation.metrics import class_metrics, estimate_metrics, undefined_metrics
from components.rounds import ScoreSums

BINARY: dict[str, Any] = {"kind": "binary", "classes": ["clear", "pneumonia"], "threshold": 0.4}
THREE: dict[str, Any] = {"kind": "multiclass", "classes": ["a", "b", "c"], "threshold": 0.5}
FINDINGS: dict[str, Any] = {"kind": "multilabel", "classes": ["effusion", "nodule"], "threshold": 0.3}
ALL = {
    "auroc", "average_precision", "accuracy", "balanced_accuracy",
    "sensitivity", "specificity", "brier", "calibration_error", "loss",
    "calibration_slope", "calibration_intercept",
}  # fmt: skip


def make(scores: Any, labels: Any, task: dict[str, Any] = BINARY, bins: int = 1000) -> ScoreSums:
    return sums_from_scores(np.array(scores, dtype=float), np.array(labels), bins=bins, **task)


def drawn(task: dict[str, Any], items: int, seed: int = 0) -> tuple[Any, Any]:
    """Scores like a trained network's: right more often than not, crowded near 0 and 1."""
    rng = np.random.default_rng(seed)
    width = {"binary": 1, "multiclass": 3, "multilabel": 2}[task["kind"]]
    labels = rng.integers(0, 3 if width == 3 else 2, (items, 2) if width == 2 else items)
    truth = np.eye(3)[labels] if width == 3 else labels.reshape(items, width)
    logits = rng.normal(size=(items, width)) * 2 + 3 * truth - (1.5 if width < 3 else 0)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) if width == 3 else 1 / (1 + np.exp(-logits))
    return scores, labels


def test_binary_metrics_worked_by_hand() -> None:
    result = estimate_metrics(make([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), **BINARY)
    assert set(result) == ALL
    assert result["auroc"].value == 0.75
    assert result["average_precision"].value == pytest.approx(5 / 6)
    assert result["accuracy"].value == result["sensitivity"].value == result["specificity"].value == 0.5
    assert (result["sensitivity"].low, result["sensitivity"].high) == wilson(1, 2)
    assert result["brier"].value == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    assert result["calibration_error"].value == pytest.approx((0.1 + 0.4 + 0.65 + 0.2) / 4)
    assert result["loss"].value == pytest.approx(-np.log([0.9, 0.6, 0.35, 0.8]).mean())
    assert [result[name].support for name in ("auroc", "sensitivity", "specificity")] == [4, 2, 2]


def test_binary_metrics_are_scikit_learns() -> None:
    scores, labels = drawn(BINARY, 700)
    result, predicted = estimate_metrics(make(scores, labels), **BINARY), scores[:, 0] >= 0.4
    exact = {
        "accuracy": oracle.accuracy_score(labels, predicted),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
        "sensitivity": oracle.recall_score(labels, predicted),
        "specificity": oracle.recall_score(labels, predicted, pos_label=0),
        "brier": oracle.brier_score_loss(labels, scores[:, 0]),
        "loss": oracle.log_loss(labels, scores[:, 0]),
    }
    assert {name: result[name].value for name in exact} == pytest.approx(exact, rel=1e-9)
    assert result["auroc"].value == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-3)
    assert result["average_precision"].value == pytest.approx(oracle.average_precision_score(labels, scores), abs=2e-3)


def test_multiclass_metrics_are_scikit_learns_macro_averages() -> None:
    scores, labels = drawn(THREE, 600)
    result, predicted, truth = (
        estimate_metrics(make(scores, labels, THREE), **THREE),
        scores.argmax(1),
        np.eye(3)[labels],
    )
    assert result["auroc"].value == pytest.approx(oracle.roc_auc_score(labels, scores, multi_class="ovr"), abs=1e-3)
    assert result["average_precision"].value == pytest.approx(oracle.average_precision_score(truth, scores), abs=2e-3)
    assert result["accuracy"].value == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert result["balanced_accuracy"].value == pytest.approx(oracle.balanced_accuracy_score(labels, predicted))
    assert result["sensitivity"].value == result["balanced_accuracy"].value
    assert result["brier"].value == pytest.approx(oracle.brier_score_loss(labels, scores, scale_by_half=False) / 3)
    assert result["loss"].value == pytest.approx(oracle.log_loss(labels, scores))
    recalls = [oracle.recall_score(column == 0, predicted != c) for c, column in enumerate(truth.T)]
    assert result["specificity"].value == pytest.approx(np.mean(recalls))


def test_multilabel_metrics_are_the_means_over_classes() -> None:
    scores, labels = drawn(FINDINGS, 600)
    result, predicted = estimate_metrics(make(scores, labels, FINDINGS), **FINDINGS), scores >= 0.3
    assert result["auroc"].value == pytest.approx(oracle.roc_auc_score(labels, scores), abs=1e-3)
    assert result["accuracy"].value == pytest.approx((predicted == labels).mean())
    assert result["sensitivity"].value == pytest.approx(oracle.recall_score(labels, predicted, average="macro"))
    assert result["brier"].value == pytest.approx(((scores - labels) ** 2).mean())
    each = class_metrics(make(scores, labels, FINDINGS), **FINDINGS)
    assert result["auroc"].value == pytest.approx(np.mean([item["auroc"].value for item in each.values()]))
    assert list(each) == ["effusion", "nodule"]


def calibration_by_items(scores: Any, labels: Any) -> float:
    """Expected calibration error from the items themselves."""
    group = np.minimum((scores * 10).astype(int), 9)
    return sum(abs((labels - scores)[group == k].sum()) for k in range(10)) / len(scores)


def test_calibration_error_is_that_of_the_items() -> None:
    scores, labels = drawn(BINARY, 500)
    result = estimate_metrics(make(scores, labels), **BINARY)["calibration_error"]
    assert result.value == pytest.approx(calibration_by_items(scores[:, 0], labels), abs=1e-12)


def test_brier_and_loss_intervals_are_those_of_the_items() -> None:
    scores, labels = drawn(BINARY, 500)
    result, score = estimate_metrics(make(scores, labels), **BINARY), scores[:, 0]
    each = {"brier": (score - labels) ** 2, "loss": -np.log(np.where(labels == 1, score, 1 - score))}
    for name, values in each.items():
        half = 1.959964 * values.std(ddof=1) / math.sqrt(500)
        assert result[name].high - result[name].value == pytest.approx(half, rel=0.01)
        assert result[name].value - result[name].low == pytest.approx(half, rel=0.01)


def test_a_pooled_metric_is_not_the_mean_of_the_sites() -> None:
    # Two sites, each perfect within itself; the second's scanner gives higher scores all over.
    north, south = make([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]), make([0.6, 0.9], [0, 1])
    each = [estimate_metrics(sums, **BINARY)["auroc"].value for sums in (north, south)]
    pooled = estimate_metrics(add_sums([north, south]), **BINARY)["auroc"].value
    assert each == [1.0, 1.0]
    assert pooled == pytest.approx(oracle.roc_auc_score([0, 0, 1, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.6, 0.9]))
    assert pooled == pytest.approx(7 / 9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.sampled_from([BINARY, THREE, FINDINGS]), st.permutations(range(4)))
def test_sites_added_and_then_estimated_are_all_items_estimated(seed: int, task: Any, order: list[int]) -> None:
    scores, labels = drawn(task, 60, seed)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 61, 3))
    parts = [make(s, y, task) for s, y in zip(np.split(scores, cuts), np.split(labels, cuts), strict=True)]
    pooled = estimate_metrics(make(scores, labels, task), **task)
    added = estimate_metrics(add_sums([parts[index] for index in order]), **task)
    assert added.keys() == pooled.keys()
    for name, item in pooled.items():
        numbers = (added[name].value, added[name].low, added[name].high, added[name].support)
        assert numbers == pytest.approx((item.value, item.low, item.high, item.support), abs=1e-9)
    assert added == estimate_metrics(add_sums(parts), **task)


def test_metrics_of_one_class_only_are_absent_with_their_reason() -> None:
    sums = make([0.1, 0.7], [0, 0])
    assert set(estimate_metrics(sums, **BINARY)) == {"accuracy", "specificity", "brier", "calibration_error", "loss"}
    reasons = undefined_metrics(sums, **BINARY)
    assert set(reasons) == {
        "auroc", "average_precision", "balanced_accuracy", "sensitivity", "calibration_slope", "calibration_intercept",
    }  # fmt: skip
    assert set(reasons.values()) == {"no item has the class"}


def test_a_mean_over_classes_is_absent_where_one_class_has_no_items_and_names_the_class() -> None:
    scores, labels = drawn(THREE, 50)
    sums = make(scores[labels < 2], labels[labels < 2], THREE)
    assert "auroc" not in estimate_metrics(sums, **THREE)
    assert undefined_metrics(sums, **THREE)["auroc"] == "class c: no item has the class"
    assert "auroc" in class_metrics(sums, **THREE)["a"]


@pytest.mark.parametrize("task", [BINARY, THREE, FINDINGS], ids=lambda task: task["kind"])
def test_no_items_have_no_metrics(task: dict[str, Any]) -> None:
    sums = empty_sums(task["kind"], task["classes"], 10)
    assert estimate_metrics(sums, **task) == {}
    assert set(undefined_metrics(sums, **task)) == ALL


def test_a_single_item_has_finite_and_wide_intervals() -> None:
    result = estimate_metrics(make([0.8], [1]), **BINARY)
    assert result["brier"].high - result["brier"].low > 0.5
    assert result["accuracy"].low < 0.3
    assert result["loss"].high > 2 * result["loss"].value


def test_sums_of_another_task_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiclass task of 3 classes has 3"):
        estimate_metrics(make([0.8], [1]), **THREE)


def test_a_multilabel_threshold_is_rounded_to_the_nearest_edge() -> None:
    sums = make([[0.31, 0.31], [0.29, 0.29]], [[1, 0], [0, 1]], FINDINGS, bins=10)
    near = estimate_metrics(sums, kind="multilabel", classes=FINDINGS["classes"], threshold=0.326)
    assert near["accuracy"].value == 0.5
    assert near["sensitivity"].value == 0.5


def overconfident(rng: np.random.Generator, items: int, sharpness: float) -> tuple[Any, Any]:
    chance = rng.beta(1.2, 1.2, items)
    odds = (chance / (1 - chance)) ** sharpness
    return odds / (1 + odds), (rng.random(items) < chance).astype(int)


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_brier_loss_and_calibration_intervals_cover_the_truth(sharpness: float) -> None:
    # Sharpness 1: scores are the true probabilities, so the calibration error is 0 and its estimate too high.
    rng = np.random.default_rng(11)
    names = ("brier", "loss", "calibration_error")
    large = estimate_metrics(make(*overconfident(rng, 400_000, sharpness)), **BINARY)
    truth = {name: large[name].value for name in names}
    hits = dict.fromkeys(names, 0)
    for _ in range(500):
        result = estimate_metrics(make(*overconfident(rng, 250, sharpness)), **BINARY)
        for name in names:
            hits[name] += result[name].low <= truth[name] <= result[name].high
    assert all(0.92 <= hits[name] / 500 <= 0.985 for name in ("brier", "loss")), hits
    assert hits["calibration_error"] / 500 >= 0.94, hits


def test_balanced_accuracy_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(12)
    hits = 0
    for _ in range(500):
        labels = (rng.random(200) < 0.3).astype(int)
        right = rng.random(200) < np.where(labels == 1, 0.9, 0.7)
        item = estimate_metrics(make(np.where(right == (labels == 1), 0.9, 0.1), labels), **BINARY)["balanced_accuracy"]
        hits += item.low <= 0.8 <= item.high
    assert 0.93 <= hits / 500 <= 0.98


def test_the_macro_interval_is_no_narrower_than_what_sampling_gives() -> None:
    areas = [estimate_metrics(make(*drawn(THREE, 150, seed), THREE), **THREE)["auroc"] for seed in range(200)]
    spread = 2 * 1.96 * np.std([item.value for item in areas])
    assert spread <= np.mean([item.high - item.low for item in areas]) <= math.sqrt(3) * 1.2 * spread
