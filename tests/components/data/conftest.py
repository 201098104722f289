import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from components.site_source import SiteSource, SourcePart
from components.study import Study

Row = dict[str, Any]


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of public data sets; tests that need one skip without it."""
    root = Path(os.environ.get("WARDROUND_DATA") or "../shared/data").resolve()
    if not (root / "pneumoniamnist/pneumoniamnist.npz").is_file():
        pytest.skip("no PneumoniaMNIST below WARDROUND_DATA")
    return root


@pytest.fixture
def make_study() -> Callable[..., Study]:
    """Make a binary study of 16 x 16 images; keywords go into its data section."""

    def make(sites: Any = None, task: Any = None, **data: Any) -> Study:
        settings = {"source": "table", "spatial_size": [16, 16], **data}
        sites = sites or [{"name": "north", "path": "north"}]
        task = task or {"classes": ["normal", "sick"]}
        return Study.model_validate({"study": "trial", "task": task, "data": settings, "sites": sites})

    return make


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A folder with 40 PNG films of 20 patients, alternately normal and sick, listed in items.csv."""
    folder = tmp_path / "north"
    folder.mkdir()
    random = np.random.default_rng(5)
    rows = []
    for number in range(40):
        Image.fromarray(random.integers(0, 255, (20, 18), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append({"file": f"{number}.png", "label": number // 2 % 2, "patient": f"P{number // 2}"})
    write_table(folder, rows)
    return folder


def write_table(folder: Path, rows: list[Row]) -> None:
    """Write items.csv."""
    with (folder / "items.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def add_row(hospital: Path) -> Callable[..., None]:
    """Append one row to the hospital's table."""

    def add(file: str, label: Any = 0, patient: str = "P0") -> None:
        with (hospital / "items.csv").open("a", newline="") as table:
            csv.writer(table).writerow([file, label, patient])

    return add


@pytest.fixture
def source(hospital: Path) -> SiteSource:
    """The hospital as a site's source."""
    return SiteSource(name="north", parts=[SourcePart(site="north", kind="folder", path=str(hospital))])


@pytest.fixture
def write_series() -> Callable[..., None]:
    """Write an axial DICOM series of 0.8 x 0.5 x 2 mm; the volume is [slices, rows, columns]."""

    def write(folder: Path, volume: np.ndarray) -> None:
        folder.mkdir()
        for number, pixels in enumerate(volume):
            dataset = Dataset()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"1.2.3.{number + 1}"
            dataset.SeriesInstanceUID, dataset.Modality = "1.2.3", "CT"
            dataset.Rows, dataset.Columns = pixels.shape
            dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
            dataset.PhotometricInterpretation = "MONOCHROME2"
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
            dataset.PixelSpacing, dataset.ImageOrientationPatient = [0.5, 0.8], [1, 0, 0, 0, 1, 0]
            dataset.ImagePositionPatient = [0, 0, 2 * number]
            dataset.PixelData = pixels.astype("<u2").tobytes()
            dataset.save_as(folder / f"slice{number}.dcm", enforce_file_format=True)

    return write
