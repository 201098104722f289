"""Arrays in one npz file, with MedMNIST's keys: ``train_images``, ``train_labels``, ``val_...``, ``test_...``.

Everything is done for all rows at once; nothing here loops over images.
"""

from __future__ import annotations

import contextlib
import functools
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from components.data.cache import CachedImages
from components.data.intensity import normalise
from components.data.labels import MISSING, OUTSIDE
from components.data.splits import SPLIT_NAMES
from components.data.transforms import channels_of_arrays, resample_arrays
from components.errors import DataError
from components.rounds import Split
from components.study import Data, Task

_PARTS = ("train", "val", "test")
_PATIENT_COLUMNS = ("patients", "patient", "source")
_EXPECTED = "MedMNIST's keys are expected: train_images, train_labels, val_images, ..."


@dataclass(frozen=True)
class Arrays:
    """The rows of an npz file without their images: parts one after the other.

    Attributes:
        path: The file.
        names: Array and row of each, for messages.
        labels: int64 ``[N]``, or ``[N, C]``; -1 where there is none.
        patients: Each row's patient, if the file has ``*_patients`` or ``*_source``; else the row itself.
        splits: Each row's split, as its key says.
    """

    path: Path
    names: list[str]
    labels: NDArray[np.int64]
    patients: list[str]
    splits: list[Split]


def read_arrays(path: Path) -> Arrays:
    """Read all of an npz file but its images.

    Raises:
        DataError: If the file is not there, is no npz, holds pickled objects (they are never loaded), or
            lacks the keys.
    """
    labels: list[NDArray[np.int64]] = []
    patients: list[str] = []
    names: list[str] = []
    splits: list[Split] = []
    with _opened(path) as file:
        for part in _parts(path, file):
            labels.append(_whole_labels(file[f"{part}_labels"], path))
            rows = [f"{part}_images[{row}]" for row in range(len(labels[-1]))]
            column = next((name for name in _PATIENT_COLUMNS if f"{part}_{name}" in file.files), None)
            patients += _text_column(path, file, part, column) if column else rows
            names += rows
            splits += [SPLIT_NAMES[part]] * len(rows)
    if len({array.shape[1:] for array in labels}) > 1:
        raise DataError(f"{path.name}: the labels of its parts have different shapes")
    return Arrays(path, names, np.concatenate(labels), patients, splits)


def read_column(path: Path, column: str) -> list[str]:
    """Read ``train_COLUMN``, ``val_COLUMN`` and ``test_COLUMN`` as text.

    Raises:
        DataError: If one is missing or has another length than the labels.
    """
    with _opened(path) as file:
        return [value for part in _parts(path, file) for value in _text_column(path, file, part, column)]


def array_reasons(arrays: Arrays, rows: Sequence[int], task: Task) -> dict[int, str]:
    """Say which of these rows have no usable label, by their place in `rows`."""
    labels = arrays.labels[np.asarray(rows, dtype=np.int64)]
    if task.kind == "multilabel":
        if labels.ndim != 2 or labels.shape[1] != len(task.classes):
            classes = len(task.classes)
            raise DataError(f"{arrays.path.name}: a multilabel task needs a 0 or 1 for each of its {classes} classes")
        missing, outside = (labels == -1).any(1), ((labels != 0) & (labels != 1)).any(1)
    else:
        labels = labels.reshape(len(labels), -1)
        if labels.shape[1] != 1:
            raise DataError(f"{arrays.path.name}: a {task.kind} task needs one label per row; use kind: multilabel")
        missing, outside = labels[:, 0] == -1, (labels[:, 0] < 0) | (labels[:, 0] >= len(task.classes))
    return {int(place): MISSING if missing[place] else OUTSIDE for place in np.flatnonzero(missing | outside)}


def decode_arrays(path: Path, rows: Sequence[int], data: Data) -> CachedImages:
    """Bring the images of some rows to the study's grid and intensities.

    Args:
        path: The npz file.
        rows: Rows as `read_arrays` counts them.
        data: The study's data section.

    Raises:
        DataError: If the arrays' shape does not fit the study.
    """
    images = _images(path, path.stat().st_mtime_ns)
    chosen = images[np.asarray(rows, dtype=np.int64)]
    dimensions = len(data.spatial_size)
    if chosen.ndim not in (dimensions + 1, dimensions + 2) or (
        chosen.ndim == dimensions + 2 and chosen.shape[-1] not in (1, 3)
    ):
        raise DataError(
            f"{path.name}: images of shape {list(images.shape[1:])} do not fit spatial_size {data.spatial_size}; "
            f"a {dimensions}D study needs {dimensions} dimensions, and channels (1 or 3) last"
        )
    if 0 in chosen.shape[1:]:
        raise DataError(f"{path.name}: images of shape {list(images.shape[1:])} have no pixels")
    tensor = torch.from_numpy(chosen).to(torch.float32)
    tensor = tensor[:, None] if chosen.ndim == dimensions + 1 else tensor.movedim(-1, 1)
    finite = torch.isfinite(tensor.flatten(1)).all(1)
    tensor = channels_of_arrays(tensor[finite].contiguous(), data.channels)
    broken = [int(place) for place in torch.nonzero(~finite)[:, 0]]
    return CachedImages(
        normalise(resample_arrays(tensor, data.spatial_size), data.intensity, data.window),
        dict.fromkeys(broken, "pixel values that are not finite"),
    )


# One array is kept for the next virtual site of the same process: unpacking it costs more than all the rest.
@functools.lru_cache(maxsize=1)
def _images(path: Path, changed_ns: int) -> NDArray[np.generic]:
    """Read the images of all parts, one after the other, and see that there is one for each label."""
    with _opened(path) as file:
        names = _parts(path, file)
        if not all(f"{part}_images" in file.files for part in names):
            raise DataError(f"{path.name} lacks images for its labels; {_EXPECTED}")
        parts = [file[f"{part}_images"] for part in names]
        labels = sum(len(file[f"{part}_labels"]) for part in names)
    if len({part.shape[1:] for part in parts}) > 1 or any(part.dtype.kind not in "uifb" for part in parts):
        raise DataError(f"{path.name}: its images must be numbers, all of one shape")
    images = np.concatenate(parts)
    if len(images) != labels:
        raise DataError(f"{path.name}: {len(images)} images, but {labels} labels")
    images.setflags(write=False)
    return images


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    """Open an npz file, and say clearly what is wrong with it."""
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # np.load would take it for a pickle, or leave it open
                raise zipfile.BadZipFile
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                yield file
    except FileNotFoundError:
        raise DataError(f"{path.name} is not there; correct data.path or WARDROUND_DATA") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError(f"{path.name} is damaged, or not an npz file of plain arrays (none are unpickled)") from None


def _parts(path: Path, file: NpzFile) -> list[str]:
    """Name the parts that are there; training has to be."""
    parts = [part for part in _PARTS if f"{part}_labels" in file.files]
    if "train" not in parts:
        raise DataError(f"{path.name} has no array train_labels; {_EXPECTED}")
    return parts


def _text_column(path: Path, file: NpzFile, part: str, column: str) -> list[str]:
    """Read one column of one part as text."""
    values = file[f"{part}_{column}"] if f"{part}_{column}" in file.files else np.empty(0)
    if len(values) != len(file[f"{part}_labels"]):
        raise DataError(f"{path.name}: {part}_{column} must have one entry for each of {part}_labels")
    return [str(value) for value in values.reshape(len(values), -1)[:, 0]] if len(values) else []


def _whole_labels(given: NDArray[np.generic], path: Path) -> NDArray[np.int64]:
    """Turn labels into whole numbers: -1 where one is missing (not a number), -2 where it is no class's index."""
    if given.dtype.kind not in "uifb" or given.ndim not in (1, 2):
        raise DataError(f"{path.name}: labels must be numbers, one per row or one 0/1 per class")
    values = given.astype(np.float64)
    whole = np.where(np.isnan(values), -1, np.where((values == np.floor(values)) & (values >= 0), values, -2))
    return np.clip(whole, -2, 2**31).astype(np.int64)
