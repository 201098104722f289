"""What the doctor finds of a study's data, in the process that opens it."""

from pathlib import Path

import pytest

from components.errors import DataError
from components.governance.hospital_settings import FILE
from components.study_file import load_study
from flows.doctor_child import Asked, open_data
from tests.references.tiny_genes import write_hospitals, write_study
from tests.references.tiny_table import SITES


def test_columns_named_by_a_pattern_are_those_of_the_hospitals_own_table(tmp_path: Path) -> None:
    write_hospitals(tmp_path, 6)
    (tmp_path / FILE).write_text(f"data: {{'*': {tmp_path / 'east'}}}\n", encoding="utf-8")
    study = load_study(write_study(tmp_path, 6, wide={"pattern": "gene_*", "components": 2}))
    found = open_data(Asked(folder=str(tmp_path), site="east", study=None), study)
    assert found.items is not None
    assert found.items.usable == SITES["east"]
    study = load_study(write_study(tmp_path, 6, wide={"pattern": "genes_*", "components": 2}))
    with pytest.raises(DataError, match=r"site east: data.records.wide.pattern genes_\* meets 0 columns"):
        open_data(Asked(folder=str(tmp_path), site="east", study=None), study)
