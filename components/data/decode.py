"""Any file a hospital has: its format is told by its content, and it is read by the reader for it."""

from __future__ import annotations

import contextlib
import gzip
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from components.data.dicom import read_dicom
from components.data.nifti import read_nifti
from components.data.picture import Picture
from components.data.quarantine import DAMAGED, UnusableItemError
from components.data.raster import read_raster
from components.data.transforms import prepare
from components.errors import DataError
from components.study import Data


def decode(files: Sequence[Path], data: Data) -> Tensor:
    """Read one item and bring it to the study's grid and intensities.

    Args:
        files: One file; or the slices of one DICOM series.
        data: The study's data section.

    Returns:
        float32 ``[C, *spatial_size]``.

    Raises:
        UnusableItemError: With the reason, whatever is wrong with the file.
    """
    try:
        with _quiet():
            return prepare(read_picture(files, data.modality), data)
    except UnusableItemError:
        raise
    except FileNotFoundError:
        raise UnusableItemError("file is missing") from None
    except PermissionError:
        raise UnusableItemError("no right to read the file") from None
    except Exception as error:  # a hostile or broken file makes readers raise anything; the item is set aside
        raise UnusableItemError(DAMAGED) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep readers from warning of what they repair, with the file's name; what they cannot repair, they raise."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_picture(files: Sequence[Path], modality: Sequence[str]) -> Picture:
    """Read one item with the reader for its format.

    Raises:
        UnusableItemError: If it is empty or of no format that is read.
        Exception: Whatever the reader raises on a broken file.
    """
    if len(files) != 1:
        return read_dicom(files, modality=modality)
    kind = format_of(files[0])
    if kind == "dicom":
        return read_dicom(files, modality=modality)
    return read_nifti(files[0]) if kind == "nifti" else read_raster(files[0])


def format_of(path: Path) -> str:
    """Tell ``dicom``, ``nifti`` or ``raster`` by a file's first bytes; by its name only where they say nothing.

    Raises:
        UnusableItemError: If the file is empty, or of none of these formats.
    """
    with path.open("rb") as file:
        head = file.read(352)
    if not head:
        raise UnusableItemError("empty file")
    if head[:2] == b"\x1f\x8b":
        with gzip.open(path) as unpacked:
            head = unpacked.read(352)
    if head[128:132] == b"DICM" or (path.suffix.lower() in (".dcm", ".dicom")):
        return "dicom"
    if head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0":
        return "nifti"
    if head.startswith(b"\x89PNG\r\n\x1a\n") or head.startswith(b"\xff\xd8\xff"):
        return "raster"
    raise UnusableItemError("not a DICOM, NIfTI, PNG or JPEG file")


def preprocess_files(data: Data, files: Sequence[Path]) -> Tensor:
    """Read new files through the very same readers and transforms as a site's items.

    Args:
        data: The study's data section.
        files: One DICOM, NIfTI, PNG or JPEG file per item; a folder is one DICOM series.

    Returns:
        float32 ``[N, C, *spatial_size]``.

    Raises:
        DataError: If a file cannot be used, with the file and the reason.
    """
    if not files:
        raise DataError("no files to read: name at least one DICOM, NIfTI, PNG or JPEG file")
    images = []
    for path in files:
        try:
            images.append(decode(slices_of(path) if path.is_dir() else [path], data))
        except UnusableItemError as error:
            raise DataError(f"{path}: {error.reason}") from error
    return torch.stack(images)


def slices_of(folder: Path) -> list[Path]:
    """List the files of a DICOM series folder: not hidden ones, not a ``DICOMDIR``."""
    found = sorted(path for path in folder.iterdir() if path.is_file())
    return [path for path in found if not path.name.startswith(".") and path.name.upper() != "DICOMDIR"]
