"""Virtual hospitals are cut from lifelines' tables, the same for the same seed."""

from pathlib import Path

import pytest

from components.analytics.sources import lifelines_table, plan_tables
from components.analytics.table import open_cohort, read_table
from components.errors import DataError
from components.study_file import load_analysis
from tests.components.analytics.hospitals import study

STUDIES = Path(__file__).parents[3] / "studies"


def test_every_patient_of_gbsg2_is_at_one_hospital_and_the_seed_decides_which(tmp_path: Path) -> None:
    trial = load_analysis(STUDIES / "trial.yaml")
    places = plan_tables(trial, tmp_path, tmp_path / "a")
    again = plan_tables(trial, tmp_path, tmp_path / "b")
    other = plan_tables(load_analysis(STUDIES / "trial.yaml", {"seed": 2}), tmp_path, tmp_path / "c")
    sizes = [len(open_cohort(read_table(place.file), trial.analysis)) for place in places]
    assert [place.site for place in places] == ["site-1", "site-2", "site-3", "site-4"]
    assert sum(sizes) == 686
    assert max(abs(size - 686 * share) for size, share in zip(sizes, (0.4, 0.3, 0.2, 0.1), strict=True)) < 3
    assert [place.file.read_bytes() for place in places] == [place.file.read_bytes() for place in again]
    assert [place.file.read_bytes() for place in places] != [place.file.read_bytes() for place in other]
    rows = sorted(line for place in places for line in place.file.read_text().splitlines()[1:])
    assert rows == sorted(",".join(row) for row in lifelines_table("GBSG2")[1])


def test_missing_values_stay_missing(tmp_path: Path) -> None:
    lung = load_analysis(STUDIES / "lung.yaml")
    cohorts = [
        open_cohort(read_table(place.file), lung.analysis) for place in plan_tables(lung, tmp_path, tmp_path / "home")
    ]
    assert sum(int((cohort.columns["wt.loss"] != cohort.columns["wt.loss"]).sum()) for cohort in cohorts) == 14


def test_hospitals_as_folders_are_those_of_the_roster_and_remember_in_one_place(tmp_path: Path) -> None:
    places = plan_tables(study(["north", "east"]), tmp_path, tmp_path / "home")
    assert [place.site for place in places] == ["east", "north"]
    assert places[0].file == tmp_path / "east" / "patients.csv"
    assert places[0].state == tmp_path / "home" / "analytics" / "east"


def test_a_table_cannot_be_cut_by_a_column_that_it_has_not(tmp_path: Path) -> None:
    lung = load_analysis(STUDIES / "lung.yaml", {"sites.partition": "column:hospital"})
    with pytest.raises(DataError, match="no column hospital to cut it by; it has inst, time"):
        plan_tables(lung, tmp_path, tmp_path / "home")
