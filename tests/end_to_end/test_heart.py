"""The example study on the four real hospitals: its tables are as described, and its agreement holds."""

import os
from pathlib import Path

import pytest

from components.data.site_data import SiteData, open_site_data
from components.data.sources import plan_sources
from components.study_file import load_study

ROOT = Path(__file__).resolve().parents[2]
PATIENTS = {"budapest": (188, 106), "cleveland": (164, 139), "long-beach": (51, 149), "switzerland": (8, 115)}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteData]:
    root = Path(os.environ.get("WARDROUND_DATA") or "../shared/data").resolve()
    if not (root / "heart_disease" / "processed.cleveland.data").is_file():
        pytest.skip("no heart_disease below WARDROUND_DATA")
    study, state = load_study(ROOT / "studies" / "heart.yaml"), tmp_path_factory.mktemp("heart")
    sources = plan_sources(study, ROOT / "studies", root)
    return {source.name: open_site_data(study, source, state / source.name) for source in sources}


def test_every_patient_of_the_four_hospitals_can_be_used(sites: dict[str, SiteData]) -> None:
    found = {
        site: tuple(sum(counts[label] for counts in data.class_counts.values()) for label in (0, 1))
        for site, data in sites.items()
    }
    assert found == PATIENTS
    assert all(data.counts.quarantined == 0 for data in sites.values())


def test_a_cholesterol_of_zero_is_missing_and_switzerland_measured_none(sites: dict[str, SiteData]) -> None:
    study = load_study(ROOT / "studies" / "heart.yaml")
    assert study.data.records is not None
    known = {site: data.table_sums(study.data.records).features["chol"].known for site, data in sites.items()}
    assert known["switzerland"] == 0
    assert min(known[site] or 0 for site in ("budapest", "cleveland", "long-beach")) > 50
