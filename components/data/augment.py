"""Random transforms of training batches: whole batches at a time, drawn from a generator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Generator, Tensor

_DEGREES = 10.0
_CONTRAST = 0.2  # factor on the distance from the image's mean: 0.8 to 1.2
_NOISE = 0.1  # standard deviation at the most, as a part of the image's own


def augment(images: Tensor, kinds: Collection[str], generator: Generator) -> Tensor:
    """Apply random transforms, each image with its own draw, in the order flip, rotate, contrast, noise.

    Args:
        images: float32 ``[N, C, H, W]`` or ``[N, C, H, W, D]``; not changed.
        kinds: Of ``flip`` (left-right, every other image), ``rotate`` (in the plane of H and W, up to
            10 degrees either way, edges repeated), ``contrast`` (0.8 to 1.2 about the image's mean) and
            ``noise`` (Gaussian, up to a tenth of the image's standard deviation).
        generator: Where the draws come from: equal generators give equal batches.

    Returns:
        A tensor of the same shape; `images` itself if there is nothing to do.
    """
    if "flip" in kinds:
        chosen = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(_per_image(chosen, images), images.flip(3), images)
    if "rotate" in kinds:
        images = _rotate(images, (torch.rand(len(images), generator=generator) * 2 - 1) * math.radians(_DEGREES))
    if "contrast" in kinds:
        factors = 1 + (torch.rand(len(images), generator=generator) * 2 - 1) * _CONTRAST
        means = images.flatten(1).mean(1)
        images = torch.lerp(_per_image(means, images), images, _per_image(factors, images))
    if "noise" in kinds:
        scales = torch.rand(len(images), generator=generator) * _NOISE * images.flatten(1).std(1, correction=0)
        images = images + torch.randn(images.shape, generator=generator) * _per_image(scales, images)
    return images


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """Shape one value per image so that it spreads over the image."""
    return values.view(-1, *[1] * (images.ndim - 1))


def _rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Rotate each image in the plane of H and W, in pixels (so an oblong image is not sheared)."""
    height, width = images.shape[2:4]
    cosine, sine = angles.cos(), angles.sin()
    dimensions = images.ndim - 2
    theta = torch.zeros(len(images), dimensions, dimensions + 1)
    theta[:, range(dimensions), range(dimensions)] = 1.0
    # affine_grid counts axes from the last: W is the last of (H, W), but the middle one of (H, W, D).
    row, column = dimensions - 1, dimensions - 2
    theta[:, row, row], theta[:, column, column] = cosine, cosine
    theta[:, column, row], theta[:, row, column] = -sine * height / width, sine * width / height
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
