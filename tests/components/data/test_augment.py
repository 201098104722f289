import math

import pytest
import torch
from torch import Generator, Tensor

from components.data.augment import augment

ALL = ["noise", "contrast", "rotate", "flip"]


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(3))


@pytest.mark.parametrize("shape", [(5, 1, 12, 16), (4, 3, 8, 8), (3, 1, 8, 10, 6)])
@pytest.mark.parametrize("kinds", [[kind] for kind in ALL] + [ALL])
def test_equal_generators_give_equal_images_and_others_do_not(shape: tuple[int, ...], kinds: list[str]) -> None:
    given = images(*shape)
    kept = given.clone()
    first = augment(given, kinds, Generator().manual_seed(1))
    assert torch.equal(first, augment(given, kinds, Generator().manual_seed(1)))
    assert not all(torch.equal(first, augment(given, kinds, Generator().manual_seed(seed))) for seed in range(2, 9))
    assert first.shape == given.shape
    assert torch.equal(given, kept)


def test_nothing_asked_is_nothing_done() -> None:
    given = images(2, 1, 4, 4)
    assert augment(given, [], Generator()) is given


def test_a_flip_exchanges_left_and_right_for_some_images() -> None:
    given = images(40, 1, 4, 5, 3)
    flipped = augment(given, ["flip"], Generator().manual_seed(1))
    turned = [torch.equal(new, old[:, :, torch.arange(4, -1, -1)]) for old, new in zip(given, flipped, strict=True)]
    kept = [torch.equal(new, old) for old, new in zip(given, flipped, strict=True)]
    assert all(a != b for a, b in zip(turned, kept, strict=True))
    assert 8 < sum(turned) < 32


@pytest.mark.parametrize("shape", [(1, 1, 101, 61), (1, 1, 101, 61, 3)])
def test_a_rotation_turns_in_the_plane_of_h_and_w_without_shearing(shape: tuple[int, ...]) -> None:
    given = torch.zeros(shape)
    given[:, :, 50, 50] = 1000.0  # 20 pixels right of the centre (50, 30)
    turned = augment(given, ["rotate"], Generator().manual_seed(2))
    angle = (torch.rand(1, generator=Generator().manual_seed(2)).item() * 2 - 1) * math.radians(10)
    weight = turned[0, 0].flatten(2).sum(2) if len(shape) == 5 else turned[0, 0]
    rows, columns = torch.meshgrid(torch.arange(101.0), torch.arange(61.0), indexing="ij")
    row = float((rows * weight).sum() / weight.sum()) - 50
    column = float((columns * weight).sum() / weight.sum()) - 30
    assert math.hypot(row, column) == pytest.approx(20, abs=0.1)
    assert abs(math.atan2(row, column)) == pytest.approx(abs(angle), abs=0.01)


def test_contrast_keeps_each_images_mean_and_noise_is_small() -> None:
    given = images(6, 1, 32, 32)
    stretched = augment(given, ["contrast"], Generator().manual_seed(1))
    torch.testing.assert_close(stretched.flatten(1).mean(1), given.flatten(1).mean(1))
    ratio = stretched.flatten(1).std(1) / given.flatten(1).std(1)
    assert bool(((ratio > 0.79) & (ratio < 1.21)).all())
    noisy = augment(given, ["noise"], Generator().manual_seed(1)) - given
    assert bool((noisy.flatten(1).std(1) < 0.11 * given.flatten(1).std(1)).all())
    assert float(noisy.std()) > 0
