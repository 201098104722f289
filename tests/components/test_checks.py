import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from components.checks import (
    change_norm,
    expected_entries,
    verify_answer,
    verify_entries,
    verify_finite,
    verify_manifest,
    verify_update,
)
from components.errors import RefusedError
from components.rounds import Answer, Order, RoundPlan, ScoreSums, UpdateManifest
from components.weights import Weights, describe

DIGEST = "ab" * 32
BASE = {"conv": torch.zeros(2, 3), "norm": torch.ones(2)}
PLAN = RoundPlan(
    study="chest", study_digest=DIGEST, training="chest-1", round=3, base_digest=DIGEST, roster=["north"], quorum=1,
    deadline_s=60.0,
)  # fmt: skip
ORDER = Order(kind="train", site="north", plan=PLAN, weights_digest=DIGEST, nonce="n1")
MANIFEST = UpdateManifest(weights_digest=DIGEST, file_sha256=DIGEST, bytes=100, weight=40.0, steps=2, loss_sum=1.5)
ANSWER = Answer(kind="train", site="north", round=3, nonce="n1", status="done", update=MANIFEST)
SUMS = ScoreSums(
    bins=2, positives=[[0, 1]], negatives=[[1, 0]], score_sums=[[0.1, 0.9]], squared_error=[0.1],
    confusion=[[1, 0], [0, 1]], loss=0.3, count=2,
)  # fmt: skip


def like(weights: Weights, **changes: Tensor) -> Weights:
    return {**{name: tensor.clone() for name, tensor in weights.items()}, **changes}


def test_a_good_answer_and_a_good_update_pass() -> None:
    verify_answer(ANSWER, ORDER, most_samples=40, most_bytes=100)
    verify_update(like(BASE), expected_entries(BASE), base=BASE, most_change=1e-9)


def test_a_good_evaluation_passes() -> None:
    answer = ANSWER.model_copy(update={"kind": "evaluate", "update": None, "sums": SUMS})
    verify_answer(answer, ORDER.model_copy(update={"kind": "evaluate"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "south"}, "site is 'south', the order's is 'north'"),
        ({"round": 2}, "round is 2, the order's is 3"),
        ({"nonce": "old"}, "nonce is 'old'"),
        ({"kind": "evaluate"}, "kind is 'evaluate'"),
        ({"status": "refused", "reason": "policy says no"}, "north refused the order .* 'policy says no'"),
        ({"status": "failed", "stage": "train"}, "north failed the order at 'train'"),
        ({"update": None}, "says done but has no update"),
        ({"sums": SUMS}, "must not have sums"),
        ({"update": MANIFEST.model_copy(update={"weight": math.inf})}, "finite"),
    ],
)
def test_an_answer_that_does_not_answer_the_order_is_refused(change: Any, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        verify_answer(ANSWER.model_copy(update=change), ORDER)


def test_an_evaluation_without_sums_is_refused() -> None:
    answer = ANSWER.model_copy(update={"kind": "evaluate", "update": None})
    with pytest.raises(RefusedError, match="has no sums"):
        verify_answer(answer, ORDER.model_copy(update={"kind": "evaluate"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({"weight": value}, "weight must be above 0 and finite") for value in (0.0, -1.0, math.nan, math.inf)],
        ({"weight": 40.5}, "states 40.5 samples, the site can have 40"),
        ({"bytes": 101}, "states 101 bytes, at most 100"),
        ({"loss_sum": math.nan}, "loss must be finite"),
        ({"file_sha256": "cd" * 32}, "one and the same"),
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused(change: Any, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        verify_manifest(MANIFEST.model_copy(update=change), most_samples=40, most_bytes=100)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"conv": BASE["conv"]}, "lacks 1 of 2 entries: 'norm'"),
        ({}, "lacks 2 of 2 entries: 'conv', 'norm'"),
        (like(BASE, extra=torch.zeros(1)), "has unknown 1 of 2 entries: 'extra'"),
        (like(BASE, conv=torch.zeros(3, 2)), r"'conv' has shape \(3, 2\), expected \(2, 3\)"),
        (like(BASE, conv=torch.zeros(2, 3).double()), "'conv' is torch.float64, expected torch.float32"),
    ],
)
def test_entries_that_differ_are_refused_by_name(found: Weights, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        verify_entries(describe(found), expected_entries(BASE))


def test_entries_that_stay_at_the_sites_are_not_expected() -> None:
    expected = expected_entries(BASE, left_out=["norm"])
    verify_update({"conv": BASE["conv"]}, expected)
    with pytest.raises(RefusedError, match=r"unknown .*'norm'"):
        verify_update(BASE, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_value_that_is_not_finite_is_found(dtype: torch.dtype, value: Any, place: int) -> None:
    weights = {"a": torch.zeros(3), "w": torch.zeros(1000, dtype=dtype)}
    verify_finite(weights)
    weights["w"][place] = value
    with pytest.raises(RefusedError, match="'w' has values that are NaN or infinite"):
        verify_finite(weights)


def test_empty_entries_and_whole_numbers_are_finite() -> None:
    verify_finite({"none": torch.zeros(0, 4), "count": torch.tensor([3])})


def test_an_update_too_far_from_its_base_is_refused() -> None:
    update = like(BASE, conv=torch.full((2, 3), 2.0))
    verify_update(update, expected_entries(BASE), base=BASE, most_change=math.sqrt(24) + 1e-6)
    with pytest.raises(RefusedError, match=r"norm 4\.89898, at most 4\.8"):
        verify_update(update, expected_entries(BASE), base=BASE, most_change=4.8)


def test_a_limit_without_a_base_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="come with base"):
        verify_update(BASE, expected_entries(BASE), most_change=1.0)


@given(a=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8), b=st.floats(-1e3, 1e3, width=32))
def test_the_norm_of_a_change_agrees_with_a_naive_one(a: Any, b: Any) -> None:
    weights, base = {"a": torch.tensor(a), "b": torch.tensor(b)}, {"a": torch.zeros(len(a)), "b": torch.zeros(())}
    assert change_norm(weights, base) == pytest.approx(math.sqrt(sum(x * x for x in [*a, b])), rel=1e-12)


def test_what_a_site_sent_cannot_break_a_log() -> None:
    name = "x\n2026-01-01 committed\x1b[2J" + "y" * 5000
    with pytest.raises(RefusedError) as caught:
        verify_entries(describe({name: torch.zeros(1)}), {})
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500
