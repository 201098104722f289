"""Sums and names that are too long for a line of the journal: in files beside it, and back from them."""

from pathlib import Path

import numpy as np
import pytest

from components.dispatch import Preparation
from components.errors import StorageError
from components.journal_lines import make_entry
from components.long_sums import put_aside, put_back, short_study
from components.study import Study
from components.table_sums import FeatureSums, TableSums
from components.wide_sums import wide_sums
from tests.references.tiny_genes import class_study

COLUMNS = 10_000


def prepared(columns: int) -> Preparation:
    table, labels = np.random.default_rng(1).normal(size=(20, columns)), np.arange(20) % 2
    sums = TableSums(features={"age": FeatureSums(known=20)}, wide=wide_sums(table, labels, 5))
    return Preparation(site="north", ready=True, sums=sums)


def test_sums_over_thousands_of_columns_lie_in_a_file_and_come_back_from_it(tmp_path: Path) -> None:
    found = prepared(COLUMNS)
    kept = put_aside(tmp_path, found)
    assert len(kept.model_dump_json()) < 500
    assert put_back(tmp_path, Preparation.model_validate_json(kept.model_dump_json())) == found


def test_what_is_short_stays_in_the_line_as_it_ever_was(tmp_path: Path) -> None:
    found = prepared(20)
    assert put_aside(tmp_path, found) == found
    assert put_back(tmp_path, found) == found
    assert "sums_file" not in found.model_dump_json()
    study = class_study(20, wide={"keep": 3})
    assert Study.model_validate_json(study.model_dump_json()).model_dump(mode="json") == short_study(tmp_path, study)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    kept = put_aside(tmp_path, prepared(COLUMNS))
    (file,) = (tmp_path / "sums").iterdir()
    file.write_bytes(file.read_bytes().replace(b"20", b"21", 1))
    with pytest.raises(StorageError, match="is not what the journal says it was: restore it from a backup"):
        put_back(tmp_path, kept)


def test_a_training_of_fifty_thousand_columns_begins_with_one_line(tmp_path: Path) -> None:
    study, found = class_study(50_000, wide={"keep": 50}), prepared(50_000)
    sites = {f"site-{number}": put_aside(tmp_path, found).model_dump(mode="json") for number in range(20)}
    plain = short_study(tmp_path, study)
    _, line = make_entry([], "training_started", {"study": plain, "preparations": sites})
    assert len(line) < 32_000
    assert Study.model_validate_json((tmp_path / "study.json").read_text()) == study
    assert plain["data"]["records"]["wide"]["columns"] == ["50000 names, in study.json"]
