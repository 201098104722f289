"""DICOM: single images, multi-frame objects, and series of slices in a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.picture import Picture
from components.data.quarantine import DAMAGED, UnusableItemError

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_GAP = 1.5  # a slice further than this many usual distances from the one before it: one is missing


def read_dicom(paths: Sequence[Path], *, modality: Sequence[str] = ()) -> Picture:
    """Read one DICOM object, or a series of slices.

    Rescale slope and intercept (or the modality lookup table) are applied, also per frame;
    MONOCHROME1 is inverted, so that more of what was measured is brighter everywhere; colour
    palettes and YBR become RGB.

    Args:
        paths: One file, or the slices of one series in any order.
        modality: Modalities accepted; empty accepts any that holds pixels.

    Returns:
        One frame: float32 ``[C, H, W]``. Several frames or slices: ``[C, rows, columns, slices]``,
        the slices sorted along their normal, with the affine where the object gives its place.

    Raises:
        UnusableItemError: If the modality is another, there are no pixels, or the slices are not one
            whole series (several series, different sizes, two at one place, one missing).
        Exception: Whatever pydicom raises on a truncated or damaged file.
    """
    # pydicom only here: a site whose images are cached must not wait for any reader.
    import pydicom

    if not paths:
        raise UnusableItemError("series folder without slices")
    datasets = [pydicom.dcmread(path, force=True) for path in paths]
    for dataset in datasets:
        _check(dataset, modality)
    if len(datasets) == 1:
        return _one_object(datasets[0])
    return _series(datasets)


def _check(dataset: Any, modality: Sequence[str]) -> None:
    """Refuse what is no object, another modality, and objects without pixels."""
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise UnusableItemError(DAMAGED)
    given = str(dataset.get("Modality", ""))
    shown = given if re.fullmatch(r"[A-Z]{2,16}", given) else "unknown"
    if modality and given not in modality:
        raise UnusableItemError(f"modality {shown} instead of {' or '.join(modality)}")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnusableItemError(f"DICOM without pixels (modality {shown})")


def _frames(dataset: Any) -> NDArray[np.float32]:
    """Decode the frames of one object: float32 ``[F, H, W, C]`` in the units after rescaling."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    stored = dataset.pixel_array
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    colours = 3 if stored.ndim >= 3 and stored.shape[-1] == 3 and photometric[:10] != "MONOCHROME" else 1
    frames = stored.reshape(-1, int(dataset.Rows), int(dataset.Columns), colours)
    if colours == 3:
        return np.asarray(frames, dtype=np.float32)
    if photometric == "MONOCHROME1" and frames.dtype.kind in "iu":
        bits = int(dataset.BitsStored)
        lowest_plus_highest = -1 if int(dataset.PixelRepresentation) else 2**bits - 1
        frames = lowest_plus_highest - frames.astype(np.int64)
    elif photometric == "MONOCHROME1":
        frames = -frames
    groups = _functional_groups(dataset, len(frames))
    rescaled = [
        apply_modality_lut(frame, _first(group, "PixelValueTransformationSequence") or dataset)
        for frame, group in zip(frames, groups, strict=True)
    ]
    return np.stack([np.asarray(frame, dtype=np.float32) for frame in rescaled])


def _functional_groups(dataset: Any, count: int) -> list[list[Any]]:
    """Give each frame its own functional groups and the shared ones, in that order."""
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])
    own = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    return [[own[frame], *shared] if frame < len(own) else shared for frame in range(count)]


def _first(groups: Sequence[Any], name: str) -> Any | None:
    """Return the first item of a sequence in the groups that has it."""
    return next((group[name][0] for group in groups if name in group and len(group[name].value)), None)


def _one_object(dataset: Any) -> Picture:
    """Turn one object into an image, or into a volume if it has several frames."""
    frames = _frames(dataset)
    if len(frames) == 1:
        return Picture(np.ascontiguousarray(frames[0].transpose(2, 0, 1)))
    groups = _functional_groups(dataset, len(frames))
    places = [_first(group, "PlanePositionSequence") for group in groups]
    planes = [_first(group, "PlaneOrientationSequence") for group in groups]
    measures = _first(groups[0], "PixelMeasuresSequence")
    if measures is None or None in places or None in planes:
        return Picture(np.ascontiguousarray(frames.transpose(3, 1, 2, 0)))
    return _stack(
        list(frames),
        [place.ImagePositionPatient for place in places if place is not None],
        [plane.ImageOrientationPatient for plane in planes if plane is not None],
        measures.PixelSpacing,
    )


def _series(datasets: Sequence[Any]) -> Picture:
    """Turn the slices of one series into a volume."""
    if len({str(dataset.get("SeriesInstanceUID", "")) for dataset in datasets}) > 1:
        raise UnusableItemError("slices of several series in one item")
    frames = [_frames(dataset) for dataset in datasets]
    if any(len(frame) != 1 for frame in frames) or len({frame.shape for frame in frames}) > 1:
        raise UnusableItemError("slices of different sizes in one series")
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    if not all(dataset.get(name) for dataset in datasets for name in needed):
        return _by_number(datasets, frames)
    return _stack(
        [frame[0] for frame in frames],
        [dataset.ImagePositionPatient for dataset in datasets],
        [dataset.ImageOrientationPatient for dataset in datasets],
        datasets[0].PixelSpacing,
    )


def _by_number(datasets: Sequence[Any], frames: Sequence[NDArray[np.float32]]) -> Picture:
    """Stack slices that give no place, by their instance numbers."""
    numbers = [dataset.get("InstanceNumber") for dataset in datasets]
    if None in numbers or len(set(numbers)) < len(numbers):
        raise UnusableItemError("slices without place or number in their series")
    order = sorted(range(len(frames)), key=lambda index: int(numbers[index]))
    return Picture(np.ascontiguousarray(np.stack([frames[index][0] for index in order]).transpose(3, 1, 2, 0)))


def _stack(
    slices: Sequence[NDArray[np.float32]], positions: Sequence[Any], orientations: Sequence[Any], spacing: Any
) -> Picture:
    """Sort slices ``[H, W, C]`` along their normal and give the volume its affine (PS3.3 C.7.6.2.1.1)."""
    directions = np.array([[float(part) for part in orientation] for orientation in orientations])
    if directions.shape[1:] != (6,) or np.abs(directions - directions[0]).max() > 1e-3:
        raise UnusableItemError("slices of different orientations in one series")
    along_row, along_column = directions[0, :3], directions[0, 3:]
    normal = np.cross(along_row, along_column)
    places = np.array([[float(part) for part in position] for position in positions])
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order])
    if steps.min() < 1e-3:
        raise UnusableItemError("two slices at one place in a series")
    if steps.max() > _GAP * np.median(steps):
        raise UnusableItemError("a slice is missing in a series")
    affine = np.eye(4)
    affine[:3, 0] = along_column * float(spacing[0])
    affine[:3, 1] = along_row * float(spacing[1])
    affine[:3, 2] = (places[order[-1]] - places[order[0]]) / (len(order) - 1)
    affine[:3, 3] = places[order[0]]
    volume = np.stack([slices[index] for index in order]).transpose(3, 1, 2, 0)
    return Picture(np.ascontiguousarray(volume), _RAS_FROM_LPS @ affine)
