import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import RefusedError
from components.evaluation.histograms import add_sums, check_sums, empty_sums, sums_from_scores
from components.rounds import ScoreSums

BINARY: dict[str, Any] = {"kind": "binary", "classes": ["clear", "pneumonia"]}
THREE: dict[str, Any] = {"kind": "multiclass", "classes": ["a", "b", "c"]}
FINDINGS: dict[str, Any] = {"kind": "multilabel", "classes": ["effusion", "nodule"]}


def binary_sums(scores: list[float], labels: list[int], bins: int = 10, threshold: float = 0.5) -> ScoreSums:
    return sums_from_scores(np.array(scores), np.array(labels), bins=bins, threshold=threshold, **BINARY)


def test_binary_sums_worked_by_hand() -> None:
    sums = binary_sums([0.05, 0.31, 0.39, 1.0, 0.6], [0, 0, 1, 1, 0])
    assert sums.positives == [[0, 0, 0, 1, 0, 0, 0, 0, 0, 1]]
    assert sums.negatives == [[1, 0, 0, 1, 0, 0, 1, 0, 0, 0]]
    np.testing.assert_allclose(sums.score_sums[0], [0.05, 0, 0, 0.70, 0, 0, 0.6, 0, 0, 1.0])
    assert sums.squared_error == pytest.approx([0.05**2 + 0.31**2 + 0.61**2 + 0 + 0.6**2])
    assert sums.confusion == [[2, 1], [1, 1]]
    assert sums.loss == pytest.approx(-np.log([0.95, 0.69, 0.39, 1.0, 0.4]).sum())
    assert sums.count == 5


def test_multiclass_sums_worked_by_hand() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1]])
    sums = sums_from_scores(scores, np.array([0, 1, 1]), bins=2, threshold=0.5, **THREE)
    assert sums.positives == [[0, 1], [1, 1], [0, 0]]
    assert sums.negatives == [[2, 0], [1, 0], [3, 0]]
    assert sums.confusion == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert sums.loss == pytest.approx(-np.log([0.7, 0.3, 0.8]).sum())


def test_multilabel_sums_worked_by_hand() -> None:
    scores, labels = torch.tensor([[0.9, 0.2], [0.1, 0.6]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    sums = sums_from_scores(scores, labels, bins=2, threshold=0.5, **FINDINGS)
    assert sums.positives == [[0, 1], [1, 1]]
    assert sums.negatives == [[1, 0], [0, 0]]
    assert sums.confusion == []
    assert sums.loss == pytest.approx(-np.log([0.9, 0.2, 0.9, 0.6]).sum() / 2)


def test_a_score_of_one_falls_into_the_last_bin_and_the_threshold_itself_is_positive() -> None:
    sums = binary_sums([1.0, 0.5], [1, 0], bins=4)
    assert sums.positives == [[0, 0, 0, 1]]
    assert sums.confusion == [[0, 1], [0, 1]]


def test_a_tensor_with_a_gradient_and_a_column_of_scores_gives_the_same_sums() -> None:
    scores = torch.tensor([0.2, 0.8], requires_grad=True)
    labels = torch.tensor([0, 1])
    assert sums_from_scores(scores[:, None], labels, bins=10, threshold=0.5, **BINARY) == sums_from_scores(
        scores, labels, bins=10, threshold=0.5, **BINARY
    )


@pytest.mark.parametrize(
    ("scores", "labels", "task", "said"),
    [
        ([[0.5, 0.5]], [1], BINARY, r"\[N, 1\]"),
        ([0.5, float("nan")], [0, 1], BINARY, "not a number"),
        ([0.5, 1.01], [0, 1], BINARY, "outside"),
        ([0.5, 0.5], [0, 2], BINARY, "0 to 1"),
        ([0.5, 0.5], [0, 0.5], BINARY, "whole numbers"),
        ([0.5, 0.5], [0], BINARY, "labels must be"),
        ([[0.2, 0.8]], [1], THREE, r"\[N, 3\]"),
        ([[0.2, 0.8]], [[0, 2]], FINDINGS, "0 to 1"),
        ([[0.2, 0.8]], [1], FINDINGS, "labels must be"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(scores: Any, labels: Any, task: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sums_from_scores(np.array(scores), np.array(labels), bins=10, threshold=0.5, **task)


@pytest.mark.parametrize("task", [BINARY, THREE, FINDINGS], ids=lambda task: task["kind"])
def test_empty_sums_add_nothing(task: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    scores = rng.dirichlet([1, 1, 1], 20) if task is THREE else rng.random((20, 1 if task is BINARY else 2))
    labels = rng.integers(0, 2, (20, 2) if task is FINDINGS else 20)
    sums = sums_from_scores(scores, labels, bins=16, threshold=0.5, **task)
    assert add_sums([empty_sums(**task, bins=16), sums]) == sums


site_scores = st.lists(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), max_size=12), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(site_scores, st.randoms())
def test_added_sums_are_the_sums_of_all_items_whatever_the_order_of_sites(
    sites: list[list[tuple[float, int]]], order: random.Random
) -> None:
    parts = [binary_sums([s for s, _ in site], [y for _, y in site], bins=20) for site in sites]
    everything = [item for site in sites for item in site]
    together = binary_sums([s for s, _ in everything], [y for _, y in everything], bins=20)
    added = add_sums(parts)
    assert (added.positives, added.negatives, added.confusion, added.count) == (
        together.positives, together.negatives, together.confusion, together.count,
    )  # fmt: skip
    np.testing.assert_allclose(added.score_sums, together.score_sums, rtol=1e-12)
    order.shuffle(parts)
    assert add_sums(parts) == added


def test_adding_rounds_once() -> None:
    parts = [binary_sums([0.5], [0]).model_copy(update={"loss": loss}) for loss in (1e16, 1.0, -1e16)]
    assert add_sums(parts).loss == 1.0


def test_sums_of_different_shapes_and_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        add_sums([empty_sums(**BINARY, bins=10), empty_sums(**BINARY, bins=20)])
    with pytest.raises(ValueError, match="different shapes"):
        add_sums([empty_sums(**BINARY, bins=10), empty_sums(**THREE, bins=10)])
    with pytest.raises(ValueError, match="no site's sums"):
        add_sums([])


@pytest.mark.parametrize("task", [BINARY, THREE, FINDINGS], ids=lambda task: task["kind"])
def test_honest_sums_pass_the_check_also_after_json(task: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    scores = rng.dirichlet([1, 1, 1], 500) if task is THREE else rng.random((500, 1 if task is BINARY else 2))
    labels = rng.integers(0, 2, (500, 2) if task is FINDINGS else 500)
    sums = sums_from_scores(scores.astype(np.float32), labels, bins=997, threshold=0.5, **task)
    check_sums(ScoreSums.model_validate_json(sums.model_dump_json()), bins=997, **task)
    check_sums(empty_sums(**task, bins=997), bins=997, **task)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bins": 5}, "5 bins"),
        ({"positives": [[0, 2]]}, "hold"),
        ({"positives": [[0, 1 << 70]]}, "above the 3 items"),
        ({"negatives": [[2, (1 << 64) - 1]]}, "above the 3 items"),
        ({"positives": [[-1, 2]]}, "below zero"),
        ({"positives": [[0, 1], [0, 1]]}, "1 rows"),
        ({"negatives": [[1, 1, 0]]}, "rows of 2 bins"),
        ({"score_sums": [[0.1, 7.0]]}, "edges"),
        ({"score_sums": [[0.1, float("nan")]]}, "edges"),
        ({"squared_error": [99.0]}, "out of range"),
        ({"squared_error": []}, "rows"),
        ({"loss": float("inf")}, "out of range"),
        ({"confusion": [[1, 1], [0, 2]]}, "hold"),
        ({"confusion": [[2, 1], [-1, 1]]}, "below zero"),
        ({"confusion": []}, "not 2 x 2"),
        ({"count": 4}, "says 4"),
    ],
)
def test_sums_that_no_evaluation_gives_are_refused(change: dict[str, Any], said: str) -> None:
    sums = binary_sums([0.1, 0.9, 1.0], [0, 0, 1], bins=2)
    with pytest.raises(RefusedError, match=said):
        check_sums(sums.model_copy(update=change), bins=2, **BINARY)


def test_more_items_than_a_site_has_are_refused() -> None:
    sums = binary_sums([0.1, 0.9, 1.0], [0, 0, 1], bins=2)
    check_sums(sums, bins=2, most_items=3, **BINARY)
    with pytest.raises(RefusedError, match="an evaluation of 3 items, the site can have 2 at the most"):
        check_sums(sums, bins=2, most_items=2, **BINARY)
