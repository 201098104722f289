"""The demo's hospitals: chest-film-like phantoms, drawn from a seed and written in three formats.

Synthetic from the first pixel to the last: ellipses, ribs and blobs, of no clinical meaning. What makes
them a federation is that the sign of disease is faint, that each hospital's scanner renders it in its own
way, and that no hospital has seen many.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.seeds import generator

_README = """These three hospitals are SYNTHETIC.

Every film was drawn by WardRound's demo (components/data/phantoms.py) from a seed: ellipses for lungs, heart
and spine, arcs for ribs, a faint blob for "opacity". No patient was ever involved, and nothing here has any
clinical meaning. Each hospital has its own scanner and file format, and a few broken files on purpose.
"""


@dataclass(frozen=True)
class Scanner:
    """How one hospital's films look.

    Attributes:
        rows: Height of a film in pixels.
        columns: Width of a film in pixels.
        gamma: Exponent of the contrast curve.
        noise: Standard deviation of the noise, where the film's range is 1.
        blur: Width of the detector's blur in pixels.
        spacing: Millimetres per pixel.
    """

    rows: int
    columns: int
    gamma: float
    noise: float
    blur: float
    spacing: float


@dataclass(frozen=True)
class Hospital:
    """One of the demo's hospitals.

    Attributes:
        name: The site's name and folder.
        letter: First letter of its patient numbers.
        format: ``dicom``, ``nifti`` or ``png``.
        patients: How many patients; each has one to three films.
        prevalence: Fraction of patients with an opacity.
        scanner: Its scanner.
    """

    name: str
    letter: str
    format: str
    patients: int
    prevalence: float
    scanner: Scanner


HOSPITALS = (
    Hospital("east", "E", "dicom", 80, 0.45, Scanner(112, 96, 0.8, 0.030, 0.6, 3.2)),
    Hospital("north", "N", "nifti", 60, 0.40, Scanner(96, 96, 1.15, 0.035, 0.8, 3.6)),
    Hospital("west", "W", "png", 110, 0.30, Scanner(128, 112, 1.0, 0.055, 0.4, 2.8)),
)


@dataclass(frozen=True)
class Film:
    """One film of one patient."""

    patient: str
    name: str
    label: int
    pixels: NDArray[np.float64]


@dataclass(frozen=True)
class _Listed:
    """One line of a hospital's list."""

    file: str
    label: int | None
    patient: str


def write_demo_hospitals(folder: Path, *, seed: int) -> None:
    """Write three synthetic hospitals: ``east`` (DICOM), ``north`` (NIfTI) and ``west`` (PNG and CSV).

    Args:
        folder: Where the hospitals' folders are made; what was written there before is written over.
        seed: Decides every pixel: equal seeds give equal files, byte for byte.

    Guarantees:
        Each hospital lists a few items that cannot be used (a truncated file, another modality, a
        missing label, a missing file): fewer than one in ten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text(_README, encoding="utf-8")
    for hospital in HOSPITALS:
        site = folder / hospital.name
        (site / "films").mkdir(parents=True, exist_ok=True)
        _write_hospital(site, hospital, seed)


def draw_films(hospital: Hospital, seed: int) -> list[Film]:
    """Draw all films of one hospital; pixels are in [0, 1], brighter where more was absorbed."""
    films = []
    for number in range(hospital.patients):
        patient = f"{hospital.letter}{number + 1:03d}"
        random = generator(seed, "phantom", hospital.name, number)
        label = _cases(number + 1, hospital.prevalence) - _cases(number, hospital.prevalence)
        anatomy, sign = random.normal(size=12), random.uniform(size=6)
        for film in range(int(random.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))):
            pixels = _draw(random, hospital.scanner, anatomy, sign if label else None)
            films.append(Film(patient, f"{patient}_{film + 1}", label, pixels))
    return films


def _cases(patients: int, prevalence: float) -> int:
    """Return how many of so many patients are sick, so that every stretch of them has its share."""
    return int(patients * prevalence + 1e-9)  # 10 x 0.3 is to be 3, though it is a little less in binary


def _draw(
    random: np.random.Generator, scanner: Scanner, anatomy: NDArray[np.float64], sign: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Draw one film: a patient's anatomy as the scanner renders it, with or without the sign."""
    pose = anatomy + 0.35 * random.normal(size=12)
    y = np.linspace(-1, 1, scanner.rows)[:, None] - 0.04 * pose[0]
    x = np.linspace(-1, 1, scanner.columns)[None, :] - 0.04 * pose[1]
    body = _edge((x / (0.93 + 0.04 * pose[2])) ** 4 + (y / 1.3) ** 4)
    centre, width, height = 0.42 + 0.02 * pose[3], 0.27 + 0.02 * pose[4], 0.62 + 0.04 * pose[5]
    lungs = _edge(((np.abs(x) - centre) / width) ** 2 + ((y + 0.05) / height) ** 2)
    heart = _edge(((x - 0.14 - 0.03 * pose[6]) / (0.30 + 0.03 * pose[7])) ** 2 + ((y - 0.30) / 0.30) ** 2)
    spine = np.exp(-((x / 0.09) ** 2))
    ribs = np.cos(2 * np.pi * ((y - 0.35 * x**2) * (3.6 + 0.2 * pose[8]) + 0.3 * pose[9])) ** 8
    film = 0.62 * body - 0.40 * lungs * (1 - 0.8 * heart) + 0.10 * spine * body + 0.06 * ribs * body
    film += _texture(random, x, y) * lungs
    if sign is not None:
        film += _opacity(random, x, y, sign, centre, height) * lungs
    film = _blur(film, scanner.blur)
    film = np.clip((film + 0.05) / 0.9, 0, 1) ** (scanner.gamma * (1 + 0.04 * pose[10]))
    return np.asarray(np.clip(film + scanner.noise * random.normal(size=film.shape), 0, 1))


def _edge(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 inside the curve at distance 1 and 0 outside, softly."""
    return np.asarray(1 / (1 + np.exp(np.clip(14 * (distance - 1), -50, 50))))


def _opacity(
    random: np.random.Generator,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    sign: NDArray[np.float64],
    centre: float,
    height: float,
) -> NDArray[np.float64]:
    """Draw a faint blob in one lung: the sign of disease."""
    side = -1 if sign[0] < 0.5 else 1
    place = (side * centre + 0.12 * (sign[1] - 0.5), height * (1.2 * sign[2] - 0.65))
    size = 0.13 + 0.07 * sign[3] + 0.01 * random.normal()
    strength = 0.19 + 0.10 * sign[4] + 0.015 * random.normal()
    return np.asarray(strength * _blob(x, place[0], size) * _blob(y, place[1], size * (0.8 + 0.5 * sign[5])))


def _texture(random: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw vessels, in the sick and the healthy: small blobs and a few slow waves."""
    total = np.zeros((y.size, x.size))
    for _ in range(7):
        place, size = random.uniform((-0.7, -0.7), (0.7, 0.6)), random.uniform(0.03, 0.07)
        total += random.uniform(0.03, 0.12) * _blob(x, place[0], size) * _blob(y, place[1], size)
    for _ in range(3):
        along_x, along_y, phase = random.normal(size=3) * (2.5, 2.5, 3)
        total += 0.015 * np.cos(along_x * x + along_y * y + phase)
    return np.asarray(total)


def _blob(axis: NDArray[np.float64], place: float, size: float) -> NDArray[np.float64]:
    """Return a Gaussian along one axis; the product of two is a blob."""
    return np.asarray(np.exp(-(((axis - place) / size) ** 2)))


def _blur(film: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Blur by a Gaussian of this many pixels, along both axes."""
    taps = np.exp(-0.5 * (np.arange(-3, 4) / width) ** 2)
    taps /= taps.sum()
    padded = np.pad(film, 3, mode="edge")
    rows = sum(tap * padded[shift : shift + film.shape[0]] for shift, tap in enumerate(taps))
    return np.asarray(sum(tap * rows[:, shift : shift + film.shape[1]] for shift, tap in enumerate(taps)))


def _write_hospital(site: Path, hospital: Hospital, seed: int) -> None:
    """Write one hospital's films, its broken items and its list."""
    films, rows = draw_films(hospital, seed), []
    save, suffix = _SAVERS[hospital.format]
    for film in films:
        save(site / "films" / f"{film.name}{suffix}", film, hospital.scanner)
        rows.append(_Listed(f"films/{film.name}{suffix}", film.label, film.patient))
    rows += _write_broken(site, films, hospital)
    if hospital.format == "png":
        _write_table(site / "items.csv", rows)
        return
    items = [{"image": row.file, "label": row.label, "patient": row.patient} for row in rows if row.label is not None]
    items += [{"image": row.file, "patient": row.patient} for row in rows if row.label is None]
    (site / "datalist.json").write_text(json.dumps({"training": items}, indent=1) + "\n", encoding="utf-8")


def _write_broken(site: Path, films: list[Film], hospital: Hospital) -> list[_Listed]:
    """Write items that cannot be used, as they turn up in exports: truncated, not a film, unlabelled, not there."""
    save, suffix = _SAVERS[hospital.format]
    whole = (site / "films" / f"{films[0].name}{suffix}").read_bytes()
    (site / "films" / f"truncated{suffix}").write_bytes(whole[: len(whole) // 2])
    _save_dicom(site / "films" / "other_modality.dcm", films[1], hospital.scanner, modality="MR")
    save(site / "films" / f"unlabelled{suffix}", replace(films[2], pixels=films[2].pixels[:, ::-1]), hospital.scanner)
    return [
        _Listed(f"films/truncated{suffix}", films[0].label, films[0].patient),
        _Listed("films/other_modality.dcm", films[1].label, films[1].patient),
        _Listed(f"films/unlabelled{suffix}", None, films[2].patient),
        _Listed(f"films/never_exported{suffix}", films[3].label, films[3].patient),
    ]


def _write_table(path: Path, rows: list[_Listed]) -> None:
    """Write ``items.csv``; a missing label is an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient"])
        writer.writerows([row.file, "" if row.label is None else row.label, row.patient] for row in rows)


def _save_dicom(path: Path, film: Film, scanner: Scanner, modality: str = "CR") -> None:
    """Write a DICOM film: 12 bits with a rescale slope and spacing; every third patient's as MONOCHROME1."""
    # pydicom only here: who starts WardRound without the demo must not wait for it.
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MRImageStorage if modality == "MR" else ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["wardround", path.name])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["wardround", film.patient, modality])
    dataset.Modality = modality
    dataset.PatientID, dataset.PatientName = film.patient, f"Phantom^{film.patient}"
    inverted = int(film.patient[1:]) % 3 == 0
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = film.pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelSpacing = [scanner.spacing, scanner.spacing]
    dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-20"
    stored = np.round(4095 * (1 - film.pixels if inverted else film.pixels)).astype("<u2")
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def _save_nifti(path: Path, film: Film, scanner: Scanner) -> None:
    """Write a NIfTI film: columns, rows and one slice, in whole numbers, with its place and spacing."""
    # nibabel only here: who starts WardRound without the demo must not wait for it.
    import nibabel

    affine = np.diag([-scanner.spacing, -scanner.spacing, 1.0, 1.0])  # columns to the left, rows to posterior
    pixels = np.round(1000 * film.pixels.T[..., None]).astype(np.int16)
    # A gzip header holds the time of writing unless told otherwise: equal films are to be equal files.
    content = nibabel.Nifti1Image(pixels, affine).to_bytes()  # type: ignore[no-untyped-call]
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))


def _save_png(path: Path, film: Film, scanner: Scanner) -> None:
    """Write an 8-bit PNG film; a PNG knows nothing of its scanner."""
    # Pillow only here: who starts WardRound without the demo must not wait for it.
    from PIL import Image

    Image.fromarray(np.round(255 * film.pixels).astype(np.uint8)).save(path, compress_level=1)


_SAVERS: Mapping[str, tuple[Callable[[Path, Film, Scanner], None], str]] = {
    "dicom": (_save_dicom, ".dcm"),
    "nifti": (_save_nifti, ".nii.gz"),
    "png": (_save_png, ".png"),
}
