from collections.abc import Callable

import numpy as np
import pytest
import torch

from components.data.picture import Picture
from components.data.quarantine import UnusableItemError
from components.data.transforms import channels_of_arrays, prepare, resample, resample_arrays
from components.study import Study


@pytest.mark.parametrize(
    ("given", "wanted"), [((32, 32), (16, 16)), ((10, 14), (16, 9)), ((8, 8), (8, 8)), ((9, 12, 4), (6, 6, 8))]
)
def test_files_and_arrays_are_resampled_alike(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    images = torch.rand(3, 2, *given)
    arrays = resample_arrays(images, wanted)
    assert arrays.shape == (3, 2, *wanted)
    for image, expected in zip(images, arrays, strict=True):
        torch.testing.assert_close(resample(image, wanted), expected)


def test_shrinking_averages_so_that_fine_stripes_do_not_alias() -> None:
    stripes = torch.arange(64).remainder(2).float().expand(1, 1, 64, 64)
    assert resample_arrays(stripes, (16, 16)).unique().tolist() == [0.5]


def test_colour_becomes_grey_by_luminance_and_grey_becomes_three_channels() -> None:
    colour = torch.tensor([100.0, 50.0, 200.0]).view(1, 3, 1, 1)
    assert channels_of_arrays(colour, 1).item() == pytest.approx(0.299 * 100 + 0.587 * 50 + 0.114 * 200)
    assert channels_of_arrays(torch.ones(1, 1, 2, 2), 3).shape == (1, 3, 2, 2)


def test_a_picture_becomes_a_tensor_of_the_studys_size(make_study: Callable[..., Study]) -> None:
    picture = Picture(np.random.default_rng(1).random((3, 40, 30), dtype=np.float32))
    tensor = prepare(picture, make_study(spatial_size=[16, 12]).data)
    assert type(tensor) is torch.Tensor
    assert tensor.shape == (1, 16, 12)
    assert (float(tensor.min()), float(tensor.max())) == (0, 1)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((1, 4, 4, 4)), "3D image in a 2D study"),
        (np.zeros((1, 0, 4)), "no pixels"),
        (np.full((1, 4, 4), np.nan), "not finite"),
        (np.full((1, 4, 4), np.inf), "not finite"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused(
    make_study: Callable[..., Study], pixels: np.ndarray, reason: str
) -> None:
    with pytest.raises(UnusableItemError, match=reason):
        prepare(Picture(pixels.astype(np.float32)), make_study().data)
