"""The known table of six regions: whole, with its regions; and what is said where it is not there or another."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from components.data import known_tables
from components.data.known import default_data_root
from components.data.known_tables import known_table
from components.errors import DataError


@pytest.mark.skipif(not (default_data_root() / "tcga_brca").is_dir(), reason="WARDROUND_DATA has no tcga_brca")
def test_every_patient_of_a_region_is_in_the_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = known_table("tcga_brca", default_data_root())
    assert path is not None
    assert tmp_path in path.parents
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["pid"] for row in rows}) == len(rows) == 1088
    assert Counter(row["region"] for row in rows) == {
        "northeast": 311, "south": 196, "west": 206, "midwest": 162, "europe": 162, "canada": 51,
    }  # fmt: skip
    assert known_table("tcga_brca", default_data_root()) == path


def test_absent_and_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"brca\.csv is not in that folder below WARDROUND_DATA"):
        known_table(known_tables.BREAST, tmp_path)
    (tmp_path / "tcga_brca").mkdir()
    (tmp_path / "tcga_brca" / "brca.csv").write_text("pid\n1\n")
    with pytest.raises(DataError, match=r"brca\.csv in the folder tcga_brca is not the published one"):
        known_table(known_tables.BREAST, tmp_path)


def test_another_name_is_no_known_table(tmp_path: Path) -> None:
    assert known_table("hospital", tmp_path) is None
