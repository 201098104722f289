"""Where a case of bad input is prepared, and what it must come to."""

import csv
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from tests.command_line import Trained
from tests.references.tiny_study import sections, write_films


@dataclass
class Bench:
    """Where a case is prepared: a folder of its own, the home with earlier trainings, and what to undo at the end."""

    folder: Path
    trained: Trained
    environment: dict[str, str]
    undo: ExitStack

    def study(self, text: str = "", **changes: Any) -> str:
        """Write films and a study of the case's own name; `text` replaces what the sections would give."""
        write_films(self.folder)
        path = self.folder / "case.yaml"
        path.write_text(text or yaml.safe_dump(sections(study="case", **changes)), encoding="utf-8")
        return str(path)

    def simulate(self, *options: str, **changes: Any) -> list[str]:
        """The command that trains the case's study in this process."""
        return ["simulate", self.study(**changes), "--dispatcher", "in-process", *options]

    def arrays(self, **arrays: Any) -> None:
        """Lay arrays over those of the films."""
        path = write_films(self.folder)
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        np.savez(path, **{**found, **arrays})

    def hospital(self, items: Sequence[tuple[str, object]]) -> dict[str, Any]:
        """Write a hospital's list of (file, label); return the sections of a study over it."""
        site = self.folder / "east"
        site.mkdir(exist_ok=True)
        with (site / "items.csv").open("w", newline="") as file:
            rows = [(name, label, f"P{row}") for row, (name, label) in enumerate(items)]
            csv.writer(file).writerows([("file", "label", "patient"), *rows])
        data = {"source": "table", "path": "", "intensity": "percentile", "window": None}
        return {"data": data, "sites": [{"name": "east", "path": "east"}]}

    def films(self, count: int, suffix: str = "png", **dicom: Any) -> list[str]:
        """Write films into the hospital's folder; return their names."""
        (self.folder / "east").mkdir(exist_ok=True)
        random = np.random.default_rng(3)
        names = [f"film{number}.{suffix}" for number in range(count)]
        for name in names:
            pixels = random.integers(0, 255, (18, 18), dtype=np.uint8)
            path = self.folder / "east" / name
            write_dicom(path, pixels, **dicom) if suffix == "dcm" else Image.fromarray(pixels).save(path)
        return names

    def film(self) -> list[str]:
        """One film, by its path."""
        return [str(self.folder / "east" / name) for name in self.films(1)]

    def listening(self) -> int:
        """A TCP port that another program listens on."""
        return int(self.undo.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])


def small_disk(place: Path, size: str, undo: ExitStack, *options: str) -> Path:
    """Mount a small disk at a new folder; skips where that cannot be."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here, that needs root: {done.stderr.strip()}")
    undo.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
    return place


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    Attributes:
        name: Of the case.
        prepare: Brings it about; returns the command line's arguments.
        code: The exit status.
        says: Patterns that the message must have.
    """

    name: str
    prepare: Callable[[Bench], list[str]]
    code: int
    says: Sequence[str]


def write_dicom(path: Path, pixels: np.ndarray, *, modality: str = "CR") -> None:
    """Write a film as DICOM."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    dataset.Modality, dataset.PhotometricInterpretation = modality, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
