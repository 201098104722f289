"""Public data sets by name: where each lies below ``WARDROUND_DATA``, its public home and its SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.errors import DataError


@dataclass(frozen=True)
class KnownDataSet:
    """One public data set in one file.

    Attributes:
        file: The file below ``WARDROUND_DATA``.
        sha256: Of the file.
        home: Its public address; empty if it has none.
    """

    file: str
    sha256: str
    home: str = ""


KNOWN: Mapping[str, KnownDataSet] = {
    # MedMNIST v2, https://doi.org/10.5281/zenodo.10519652, CC BY 4.0
    "pneumoniamnist": KnownDataSet(
        file="pneumoniamnist/pneumoniamnist.npz",
        sha256="e1792d3f03751cb101e99f19a63b3c1941436c988665f47853417b05be250cd8",
        home="https://zenodo.org/records/10519652/files/pneumoniamnist.npz",
    ),
    # cut from https://github.com/Shenggan/BCCD_Dataset (MIT); nobody offers this file for download
    "bccd_cells": KnownDataSet(
        file="bccd_cells/bccd_cells_28.npz",
        sha256="c61e65f8bdd371c56c59dbe72a2177c6e87d78f51ebca4a11bd5347628033a53",
    ),
}


def default_data_root() -> Path:
    """Return the folder of ``WARDROUND_DATA``, by default ``../shared/data``."""
    return Path(os.environ.get("WARDROUND_DATA") or "../shared/data")


def find_npz(name: str, *, study_folder: Path, data_root: Path) -> Path:
    """Find an npz file by a known data set's name, or by its path.

    Args:
        name: A name in `KNOWN`, or a path: absolute, below `data_root`, or relative to the study's file.
        study_folder: The folder of the study's file.
        data_root: The folder of ``WARDROUND_DATA``.

    Returns:
        The file; a known one that is not below `data_root` is downloaded once into the user's cache
        folder. A known file has its known SHA-256.

    Raises:
        DataError: If it is not there, cannot be downloaded, or is another file than the known one.
    """
    if name in KNOWN:
        return _known_file(name, KNOWN[name], data_root)
    for path in (data_root / name, study_folder / name):  # an absolute path stays itself
        if path.is_file():
            return path.resolve()
    raise DataError(
        f"data.path {name!r}: no such file below WARDROUND_DATA ({data_root}) nor beside the study; give a path to an "
        f"npz file, or one of the known data sets: {', '.join(sorted(KNOWN))}"
    )


def _known_file(name: str, known: KnownDataSet, data_root: Path) -> Path:
    """Take a known data set from the disk, or else from its home."""
    path = data_root / known.file
    if not path.is_file():
        return _download(name, known, data_root)
    if hashlib.sha256(path.read_bytes()).hexdigest() != known.sha256:
        raise DataError(f"{known.file} below WARDROUND_DATA ({data_root}) is not the published {name}: remove it")
    return path.resolve()


def _download(name: str, known: KnownDataSet, data_root: Path) -> Path:
    """Fetch a known data set once, checked by its SHA-256."""
    wanted = f"data set {name}: {known.file} is not below WARDROUND_DATA ({data_root})"
    advice = f"set WARDROUND_DATA to the folder that holds {known.file}"
    if not known.home:
        raise DataError(f"{wanted}; it cannot be downloaded: {advice}")
    # pooch only here: it is needed once, and brings requests with it.
    import pooch  # type: ignore[import-untyped]

    pooch.get_logger().setLevel("WARNING")  # it announces itself on the terminal; what fails is raised
    try:
        folder = pooch.os_cache("wardround")
        fetch = pooch.HTTPDownloader(timeout=30)
        return Path(pooch.retrieve(known.home, f"sha256:{known.sha256}", f"{name}.npz", folder, downloader=fetch))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        what = "its SHA-256 is not the published one" if isinstance(error, ValueError) else "offline?"
        raise DataError(f"{wanted}, and it could not be downloaded from {known.home} ({what}): {advice}") from error
