"""What of a study's data is not on this machine is said, with where it was looked for."""

from pathlib import Path

import pytest

from components.data import absent
from components.data.absent import absent_data
from components.data.known_tables import BREAST_FILES
from tests.references.tiny_study import tiny_study
from tests.references.tiny_table import table_study, write_hospitals


def test_tables_are_looked_for_beside_the_study_and_below_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, root = tmp_path / "studies", tmp_path / "data"
    study = table_study()
    monkeypatch.setenv("WARDROUND_DATA", str(root))
    assert absent_data(study, beside) == (
        f"east (east), north (north), west (west): not beside the study ({beside}) nor below WARDROUND_DATA ({root}); "
        "set WARDROUND_DATA to the folder that holds east and north and west"
    )
    write_hospitals(root)
    (root / "west").rename(tmp_path / "gone")
    assert absent_data(study, beside).startswith("west (west): not beside")
    monkeypatch.delenv("WARDROUND_DATA")
    assert ", its default)" in absent_data(study, beside)
    write_hospitals(beside)
    assert absent_data(study, beside) == ""


def test_published_tables_have_one_place(tmp_path: Path) -> None:
    study = table_study(data={"path": "tcga_brca"}, sites={"partition": "column:region"})
    lacks = absent_data(study, tmp_path, tmp_path / "data")
    assert lacks.startswith("tcga_brca/brca.csv, tcga_brca/train_test_split.csv: not below WARDROUND_DATA (")
    for file in BREAST_FILES:
        (tmp_path / "data" / "tcga_brca").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "tcga_brca" / file).touch()
    assert absent_data(study, tmp_path, tmp_path / "data") == ""


def test_a_package_that_brings_the_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = table_study(data={"path": "lifelines:GBSG2"}, sites={"count": 2})
    monkeypatch.setattr(absent, "find_spec", lambda name: None)
    assert absent_data(study, tmp_path).endswith("lifelines', which is not installed here: pip install lifelines")
    monkeypatch.setattr(absent, "find_spec", lambda name: object())
    assert absent_data(study, tmp_path) == ""


@pytest.mark.parametrize(("path", "says"), [("pneumoniamnist", ""), ("none.npz", "none.npz: not beside the study (")])
def test_what_is_downloaded_is_not_missed(tmp_path: Path, path: str, says: str) -> None:
    lacks = absent_data(tiny_study(data={"path": path}), tmp_path, tmp_path / "data")
    assert lacks.startswith(says)
    assert bool(lacks) == bool(says)


def test_folders_of_images_lie_beside_the_study(tmp_path: Path) -> None:
    sites = [{"name": "east", "path": "east"}, {"name": "west", "path": "west"}]
    study = tiny_study(data={"source": "folder", "path": ""}, sites=sites)
    (tmp_path / "west").mkdir()
    assert absent_data(study, tmp_path) == f"east (east): not beside the study ({tmp_path})"
