import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.data.intensity import normalise

KINDS = ["minmax", "zscore", "percentile", "window", "none"]


def naive(image: np.ndarray, kind: str) -> np.ndarray:
    """The formulas, one image at a time, in double precision."""
    x = image.astype(np.float64)
    if kind == "none":
        return x
    if kind == "window":
        return np.clip((x - 10) / (200 - 10), 0, 1)
    if x.max() == x.min():
        return np.zeros_like(x)
    if kind == "minmax":
        return (x - x.min()) / (x.max() - x.min())
    if kind == "zscore":
        return (x - x.mean()) / x.std()
    low, high = np.percentile(x, [1, 99])
    return np.clip((x - low) / (high - low), 0, 1) if high > low else np.zeros_like(x)


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(2, 9))
def test_each_kind_is_its_formula_for_each_image(kind: str, seed: int, items: int, channels: int, size: int) -> None:
    images = np.random.default_rng(seed).integers(0, 255, (items, channels, size, size + 1)).astype(np.float32)
    got = normalise(torch.from_numpy(images), kind, (10, 200)).numpy()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [naive(image, kind) for image in images], atol=2e-5)


def test_literal_values() -> None:
    images = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert normalise(images, "minmax").flatten().tolist() == pytest.approx([0, 0.2, 0.4, 1])
    assert normalise(images, "zscore").flatten().tolist() == pytest.approx([-2, -1, 0, 3] / np.sqrt(3.5))
    assert normalise(images, "window", (2, 4)).flatten().tolist() == [0, 0, 0.5, 1]


@pytest.mark.parametrize("kind", ["minmax", "zscore", "percentile"])
def test_a_constant_image_becomes_zeros(kind: str) -> None:
    images = torch.full((2, 1, 5, 5), 0.1)
    assert normalise(images, kind).tolist() == torch.zeros(2, 1, 5, 5).tolist()


def test_the_channels_of_one_image_share_their_range() -> None:
    image = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 2.0), torch.full((4, 4), 4.0)])[None]
    assert normalise(image, "minmax")[0, :, 0, 0].tolist() == [0, 0.5, 1]


def test_many_images_are_worked_on_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(7, 1, 5, 5)
    whole = normalise(images, "percentile")
    monkeypatch.setattr("components.data.intensity._CHUNK", 50)
    assert torch.equal(normalise(images, "percentile"), whole)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="minmax, zscore"):
        normalise(torch.zeros(1, 1, 2, 2), "histogram")
