import hashlib
import math
import random
from collections.abc import Sequence

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from components.weights import DTYPES, Entry, WeightedMean, Weights, describe, digest, header, layout, zeros_like

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=3)


def filled(dtype: torch.dtype, shape: Sequence[int], seed: int) -> Tensor:
    """Random bits, NaNs with payloads included."""
    data = bytearray(random.Random(seed).randbytes(Entry(dtype, tuple(shape)).bytes))
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


WEIGHTS = st.builds(
    lambda entries: {name: filled(DTYPES[code], shape, k) for k, (name, (code, shape)) in enumerate(entries.items())},
    st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES), max_size=6),
)


@given(weights=WEIGHTS)
def test_the_digest_is_the_hash_of_the_file_that_the_library_writes(weights: Weights) -> None:
    assert digest(weights) == hashlib.sha256(safetensors.torch.save(weights)).hexdigest()


@given(weights=WEIGHTS)
def test_the_order_of_names_does_not_change_the_digest(weights: Weights) -> None:
    assert digest(weights) == digest(dict(reversed(weights.items())))


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.tensor([-0.0, 1.0])},
        {"w": torch.tensor([[0.0, 1.0]])},
        {"w": torch.tensor([0.0, 1.0], dtype=torch.float64)},
        {"v": torch.tensor([0.0, 1.0])},
        {"w": torch.tensor([0.0, 1.0]), "v": torch.empty(0)},
    ],
)
def test_any_difference_changes_the_digest(other: Weights) -> None:
    assert digest({"w": torch.tensor([0.0, 1.0])}) != digest(other)


def test_the_digest_does_not_depend_on_strides() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    assert digest({"w": matrix.T}) == digest({"w": matrix.T.contiguous()})
    assert digest({"w": matrix.T}) != digest({"w": matrix})


def test_entries_are_laid_out_from_wide_to_narrow_and_then_by_name() -> None:
    shapes = {"a": torch.float16, "b": torch.float64, "c": torch.int64, "d": torch.bfloat16, "e": torch.float64}
    assert layout({name: Entry(dtype, (1,)) for name, dtype in shapes.items()}) == ["c", "b", "e", "d", "a"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"m": torch.tensor([True])}, "'m' is torch.bool"),
        ({"z": torch.zeros(1, dtype=torch.complex64)}, "'z' is torch.complex64"),
        ({"__metadata__": torch.zeros(1)}, "__metadata__"),
        ({"\ud800": torch.zeros(1)}, "surrogates not allowed"),
    ],
)
def test_what_has_no_place_in_a_file_is_refused(weights: Weights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        header(describe(weights))


def test_zeros_are_shaped_like_the_named_entries() -> None:
    weights = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(3)}
    assert zeros_like(weights).keys() == weights.keys()
    assert torch.equal(zeros_like(weights, ["a"])["a"], torch.zeros(2, dtype=torch.float64))


def test_a_mean_in_double_precision_keeps_what_float32_would_lose() -> None:
    mean = WeightedMean()
    for value in (1e8, 1.0, -1e8):
        mean.add({"w": torch.tensor([value])}, 1)
    assert mean.entry("w").item() == pytest.approx(1 / 3, rel=1e-15)
    assert mean.entry("w").dtype == torch.float64
    assert mean.result()["w"].dtype == torch.float32


def test_a_sum_in_another_order_may_differ_in_its_last_bits() -> None:
    """Why updates are read in the order of site names, and not as they come."""
    values = [torch.tensor([value], dtype=torch.float64) for value in (1e16, 1.0, -1e16)]
    results = []
    for order in (values, values[::-1], [values[0], values[2], values[1]]):
        mean = WeightedMean()
        for value in order:
            mean.add({"w": value}, 1)
        results.append(mean.entry("w").item())
    assert len(set(results)) > 1


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_weight_that_is_no_count_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="above zero and finite"):
        WeightedMean().add({"w": torch.zeros(1)}, weight)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"v": torch.zeros(1)}, "entries differ"),
        ({"w": torch.zeros(2)}, r"shape \(2,\), not \(1,\)"),
        ({"w": torch.zeros(1, dtype=torch.int64)}, "only floating-point"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_leaves_the_mean_whole(second: Weights, message: str) -> None:
    mean = WeightedMean()
    mean.add({"w": torch.ones(1)}, 2)
    with pytest.raises(ValueError, match=message):
        mean.add(second, 1)
    assert mean.result()["w"].item() == 1


def test_the_mean_of_nothing_is_not_defined() -> None:
    with pytest.raises(ValueError, match="no updates"):
        WeightedMean().result()


def test_the_mean_does_not_change_with_the_first_update() -> None:
    first = torch.ones(1, dtype=torch.float64)
    mean = WeightedMean()
    mean.add({"w": first}, 1)
    first += 5
    assert mean.result()["w"].item() == 1
