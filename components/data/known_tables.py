"""Public tables by name that are made of more than one file below ``WARDROUND_DATA``, kept as one CSV in the cache."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

from components.errors import DataError
from components.files import storage_errors, write_whole

BREAST = "tcga_brca"
# Clinical data of TCGA-BRCA as FLamby (MIT) distributes them; see the folder's README for source and terms.
BREAST_FILES: Mapping[str, str] = {
    "brca.csv": "07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020",
    "train_test_split.csv": "1249c6543a4060ff0fdaf8510fc37017755836db6c9fc5e6af96057c36510990",
}
REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")  # by the last figure of `fold2`


def known_table(name: str, data_root: Path) -> Path | None:
    """Return the file of a table by its name, made if need be; None if there is no such name.

    Args:
        name: ``tcga_brca``: 1,088 patients with breast cancer, a row each, with the region of their hospital.
        data_root: The folder of ``WARDROUND_DATA``.

    Raises:
        DataError: If a file of it is not there, or is another than the known one.
        StorageError: If the cache cannot be written.
    """
    if name != BREAST:
        return None
    content = {file: _read(data_root / name / file, digest) for file, digest in BREAST_FILES.items()}
    table = _breast(content["brca.csv"], content["train_test_split.csv"])
    path = _cache_folder() / "tables" / f"{name}-{hashlib.sha256(table).hexdigest()[:16]}.csv"
    if not path.is_file():
        with storage_errors("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, table)
    return path


def _breast(patients: str, folds: str) -> bytes:
    """Return the patients that have a region, with it."""
    regions = {row["pid"]: REGIONS[int(row["fold2"][-1])] for row in csv.DictReader(io.StringIO(folds))}
    rows = [
        {**row, "region": regions[row["pid"]]} for row in csv.DictReader(io.StringIO(patients)) if row["pid"] in regions
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _read(path: Path, digest: str) -> str:
    """Read one of the published files."""
    if not path.is_file():
        raise DataError(
            f"data.path {path.parent.name!r}: {path.name} is not in that folder below WARDROUND_DATA "
            f"({path.parents[1].resolve()}); set WARDROUND_DATA to the folder that holds {path.parent.name}"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{path.name} in the folder {path.parent.name} is not the published one: put that there")
    return content.decode()


def _cache_folder() -> Path:
    """Return the user's cache folder of WardRound."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root and Path(root).is_absolute() else Path.home() / ".cache") / "wardround"
