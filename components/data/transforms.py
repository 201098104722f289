"""From a picture to the network's grid: orientation, size and channels, through MONAI's transforms.

MONAI takes seconds to import. The functions that use it import it themselves, so that a site whose
images are cached, or come as arrays, starts without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.data.intensity import normalise
from components.data.picture import Picture
from components.data.quarantine import UnusableItemError
from components.study import Data

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow and JPEG use


def prepare(picture: Picture, data: Data) -> Tensor:
    """Bring one picture to the study's grid: orientation, channels, size, intensity, in that order.

    Args:
        picture: As read.
        data: The study's data section.

    Returns:
        float32 ``[C, H, W]`` or ``[C, H, W, D]``: a volume with a known place in the patient has H to
        posterior, W to the patient's left and D to superior, whichever way it was scanned or stored.

    Raises:
        UnusableItemError: If the picture has other dimensions than the study, no pixels, or values
            that are not finite.
    """
    pixels, dimensions = picture.pixels, len(data.spatial_size)
    if 0 in pixels.shape:
        raise UnusableItemError("no pixels")
    if pixels.ndim - 1 != dimensions:
        raise UnusableItemError(f"{pixels.ndim - 1}D image in a {dimensions}D study")
    if not np.isfinite(pixels).all():
        raise UnusableItemError("pixel values that are not finite")
    if picture.affine is not None:
        pixels = orient(pixels, picture.affine)
    sized = resample(channels_of_arrays(torch.from_numpy(pixels)[None], data.channels)[0], data.spatial_size)
    return normalise(sized[None], data.intensity, data.window)[0]


def orient(pixels: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn a volume ``[C, I, J, K]`` so that its axes run to posterior, left and superior.

    An axial DICOM series, read as rows, columns and slices, is left as it is.
    """
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.spatial.array import Orientation

    volume = MetaTensor(torch.from_numpy(pixels), affine=torch.from_numpy(affine))
    turned = Orientation(axcodes="PLS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(volume)
    result: NDArray[np.float32] = np.ascontiguousarray(turned.numpy())
    return result


def resample(image: Tensor, spatial_size: Sequence[int]) -> Tensor:
    """Bring ``[C, *spatial]`` to `spatial_size`: averaged where it shrinks, linear where it grows.

    Averaging over the covered area first keeps fine structures from aliasing.
    """
    from monai.transforms.spatial.array import Resize

    for size, mode in _steps(image.shape[1:], spatial_size):
        image = torch.as_tensor(Resize(spatial_size=size, mode=mode)(image)).as_subclass(Tensor)
    return image


def resample_arrays(images: Tensor, spatial_size: Sequence[int]) -> Tensor:
    """Do as `resample`, for many images ``[N, C, *spatial]`` at once and without MONAI."""
    for size, mode in _steps(images.shape[2:], spatial_size):
        corners = {} if mode == "area" else {"align_corners": False}
        images = torch.nn.functional.interpolate(images, size=list(size), mode=mode, **corners)
    return images


def channels_of_arrays(images: Tensor, channels: int) -> Tensor:
    """Turn ``[N, C, *spatial]`` with 1 or 3 channels to grey by luminance, or to three equal channels."""
    if images.shape[1] == channels:
        return images
    if channels == 1:
        return torch.einsum("nc...,c->n...", images, torch.from_numpy(_LUMINANCE))[:, None]
    return images.expand(-1, channels, *images.shape[2:])


def _steps(given: Sequence[int], wanted: Sequence[int]) -> list[tuple[tuple[int, ...], str]]:
    """Say which resizings lead from one size to the other, each with its mode."""
    smaller = tuple(min(pair) for pair in zip(given, wanted, strict=True))
    steps = [(smaller, "area")] if smaller != tuple(given) else []
    if tuple(wanted) != smaller:
        steps.append((tuple(wanted), "bilinear" if len(wanted) == 2 else "trilinear"))
    return steps
