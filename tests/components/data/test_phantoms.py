import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from components.data.phantoms import HOSPITALS, draw_films, write_demo_hospitals
from components.data.site_data import SiteData, open_site_data
from components.data.sources import plan_sources
from components.study import Study


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_hospitals(folder, seed=7)
    return folder


@pytest.fixture(scope="module")
def opened(written: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteData]:
    study = Study.model_validate(
        {
            "study": "demo",
            "task": {"classes": ["normal", "opacity"]},
            "data": {"source": "folder", "spatial_size": [64, 64], "modality": ["CR", "DX"], "intensity": "percentile"},
            "sites": [{"name": hospital.name, "path": hospital.name} for hospital in HOSPITALS],
        }
    )
    state = tmp_path_factory.mktemp("state")
    return {source.name: open_site_data(study, source, state / source.name) for source in plan_sources(study, written)}


def content(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def test_the_same_seed_writes_the_same_bytes_also_over_the_last_ones(written: Path, tmp_path: Path) -> None:
    write_demo_hospitals(tmp_path, seed=7)
    assert content(tmp_path) == content(written)
    write_demo_hospitals(tmp_path, seed=7)
    assert content(tmp_path) == content(written)
    write_demo_hospitals(tmp_path, seed=8)
    assert content(tmp_path) != content(written)


def test_the_folder_says_that_it_is_synthetic(written: Path) -> None:
    assert "SYNTHETIC" in (written / "README.txt").read_text()


def test_each_hospital_has_its_format_and_its_scanner(written: Path) -> None:
    films = [pydicom.dcmread(path) for path in sorted((written / "east/films").glob("E*.dcm"))]
    assert {film.PhotometricInterpretation for film in films} == {"MONOCHROME1", "MONOCHROME2"}
    assert {(film.Rows, film.Columns, film.RescaleSlope, film.PixelSpacing[0]) for film in films} == {
        (112, 96, 0.5, 3.2)
    }
    image = nibabel.load(next((written / "north/films").glob("N*.nii.gz")))
    assert image.shape == (96, 96, 1)
    assert (written / "west/items.csv").is_file()


def test_a_few_items_of_each_hospital_are_broken(opened: dict[str, SiteData]) -> None:
    for data in opened.values():
        assert data.counts.quarantined == 4
        assert data.counts.usable / data.counts.expected > 0.9
        for counts in data.class_counts.values():
            assert min(counts) >= 3
    assert 300 < sum(data.counts.expected for data in opened.values()) < 700


def test_every_format_gives_back_the_film_that_was_drawn(opened: dict[str, SiteData]) -> None:
    # The eye is trained on one side: were a reader to turn or invert its films, means over sites would differ.
    means = {name: data.images("train").mean((0, 1)).numpy() for name, data in opened.items()}
    for one in means.values():
        for other in means.values():
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9


def test_a_patient_has_one_diagnosis_and_prevalence_is_the_hospitals() -> None:
    for hospital in HOSPITALS:
        films = draw_films(hospital, 7)
        labels = {film.patient: film.label for film in films}
        assert all(labels[film.patient] == film.label for film in films)
        assert len(labels) == hospital.patients
        assert np.mean(list(labels.values())) == pytest.approx(hospital.prevalence, abs=0.02)
        assert all(film.pixels.min() >= 0 and film.pixels.max() <= 1 for film in films)
