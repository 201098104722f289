"""Tables by the names made:...: drawn once, without what nobody knows, and told apart."""

import csv
from pathlib import Path

import pytest

from components.data.known import default_data_root
from components.data.known_effects import TrialPlan, draw_trial
from components.data.made_tables import MADE, draw_made, made_table
from components.errors import DataError

HAS_PATIENTS = (default_data_root() / "tcga_brca").is_dir()


def test_a_table_is_drawn_once_and_holds_nothing_that_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = made_table("made:trial", tmp_path)
    written = file.stat().st_mtime_ns
    assert made_table("made:trial", tmp_path) == file
    assert file.stat().st_mtime_ns == written
    header = file.read_text().partition("\n")[0].split(",")
    assert header == draw_trial(TrialPlan(patients=1)).columns
    assert header[-4:] == ["drug", "outcome", "days", "died"]


@pytest.mark.skipif(not HAS_PATIENTS, reason="WARDROUND_DATA has no tcga_brca")
def test_the_table_of_regions_is_that_of_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with made_table("made:regions", default_data_root()).open() as file:
        found = list(csv.reader(file))
    trial = draw_made("made:regions", default_data_root())
    assert found == [trial.columns, *trial.rows]


def test_another_seed_draws_another_trial(tmp_path: Path) -> None:
    assert draw_made("made:cohort", tmp_path, seed=1).rows == draw_trial(TrialPlan(randomised=False)).rows
    assert draw_made("made:cohort", tmp_path, seed=2).rows == draw_trial(TrialPlan(randomised=False, seed=2)).rows


def test_the_plans_differ() -> None:
    assert len({str(plan) for plan in MADE.values()}) == len(MADE)


def test_a_table_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no such made-up table; there are made:cohort, made:genes, made:regions, made:trial"
    ):
        made_table("made:up", tmp_path)


def test_regions_without_their_patients_say_where_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = r"'made:regions' is drawn over the patients of tcga_brca: brca\.csv is not in .*set WARDROUND_DATA"
    with pytest.raises(DataError, match=words):
        made_table("made:regions", tmp_path / "nothing")
