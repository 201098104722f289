"""NIfTI: volumes with their orientation, and single images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.data.picture import Picture
from components.data.quarantine import UnusableItemError
from components.data.transforms import orient

_MOST_VOXELS = 2**30  # a header can promise any size; more than this is no image of one examination


def read_nifti(path: Path) -> Picture:
    """Read a ``.nii`` or ``.nii.gz`` file, scaled by its slope and intercept.

    Args:
        path: The file, with two or three dimensions of more than one voxel.

    Returns:
        A volume as float32 ``[1, I, J, K]`` with its affine; or, where one of three dimensions is a
        single slice, an image ``[1, H, W]`` the way DICOM viewers show that plane: the patient's right
        on the left, anterior or superior on top.

    Raises:
        UnusableItemError: If it has more or fewer dimensions, no voxels, too many, or colours.
        Exception: Whatever nibabel raises on a truncated or damaged file.
    """
    # nibabel only here: a site whose images are cached must not wait for any reader.
    import nibabel

    image = nibabel.Nifti1Image.from_filename(path)
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise UnusableItemError(f"{len(shape)} dimensions instead of 2 or 3")
    if not 0 < int(np.prod(shape, dtype=object)) <= _MOST_VOXELS:
        raise UnusableItemError("no pixels" if 0 in shape else "too many voxels for one examination")
    stored = np.dtype(image.header.get_data_dtype())  # type: ignore[no-untyped-call]
    if stored.fields is not None or stored.kind == "c":
        raise UnusableItemError("NIfTI with colours or complex values")
    pixels = np.asarray(image.dataobj, dtype=np.float32).reshape(*shape, *[1] * (3 - len(shape)))[None]
    affine = np.asarray(image.affine, dtype=np.float64)
    if 1 not in pixels.shape[1:]:
        return Picture(pixels, affine)
    return Picture(_as_viewed(pixels, affine))


def _as_viewed(pixels: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn a volume of one slice into the image that a viewer shows of it."""
    turned = orient(pixels, affine)  # axes to posterior, left, superior
    single = next(axis for axis in (3, 1, 2) if turned.shape[axis] == 1)
    image = turned.squeeze(single)
    # Axial: rows to posterior, columns to left, as they are. Coronal and sagittal: rows downward is -superior.
    return np.ascontiguousarray(image if single == 3 else image.transpose(0, 2, 1)[:, ::-1])
