import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data.listing import read_rows
from components.errors import DataError
from components.study import Study


def read(folder: Path, study: Study) -> list[Any]:
    return read_rows(folder, study.data, "site north")


def test_a_table_gives_one_row_per_line(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    (tmp_path / "items.csv").write_text("\ufefffile, label,patient,ward\na.png,1,P1,W2\nb.png,,P2,W3\n")
    first, second = read(tmp_path, make_study())
    assert (first.files, first.label, first.patient, first.extras["ward"]) == (("a.png",), "1", "P1", "W2")
    assert second.label is None


def test_columns_may_have_other_names(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    (tmp_path / "list.csv").write_text("path,dx,mrn,part\na.png,sick,7,test\n")
    columns = {"file": "path", "label": "dx", "patient": "mrn", "split": "part"}
    (row,) = read(tmp_path, make_study(table="list.csv", columns=columns))
    assert (row.name, row.label, row.patient, row.split) == ("a.png", "sick", "7", "test")


def test_no_patient_column_makes_every_item_a_patient(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    (tmp_path / "items.csv").write_text("file,label\na.png,1\n")
    (row,) = read(tmp_path, make_study(columns={"patient": ""}))
    assert row.patient == "a.png"


def test_a_datalist_names_splits_by_its_sections(tmp_path: Path, make_study: Callable[..., Study]) -> None:
    content = {
        "name": "MSD-like", "numTest": 1, "labels": {"0": "normal"},
        "training": [{"image": "a.nii", "label": 1, "patient": "P1", "centre": "x"}],
        "validation": [{"image": ["s/1.dcm", "s/2.dcm"], "label": [0], "patient": "P2"}],
        "test": ["c.nii"],
    }  # fmt: skip
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    rows = read(tmp_path, make_study(source="datalist"))
    assert [(row.name, row.split, row.patient) for row in rows] == [
        ("a.nii", "training", "P1"), ("s/1.dcm", "validation", "P2"), ("c.nii", "test", ""),
    ]  # fmt: skip
    assert rows[1].files == ("s/1.dcm", "s/2.dcm")
    assert rows[0].extras["centre"] == "x"
    assert rows[2].label is None


def test_source_folder_takes_the_datalist_if_there_is_one_else_the_table(
    tmp_path: Path, make_study: Callable[..., Study]
) -> None:
    study = make_study(source="folder")
    (tmp_path / "items.csv").write_text("file,label,patient\na.png,1,P1\n")
    assert read(tmp_path, study)[0].name == "a.png"
    (tmp_path / "datalist.json").write_text(json.dumps([{"image": "b.nii", "label": 0, "patient": "P"}]))
    assert read(tmp_path, study)[0].name == "b.nii"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("items.csv", "", "no column 'file'"),
        ("items.csv", "file,label,patient\n", "lists no items"),
        ("items.csv", "file,label\na.png,1\n", "no column 'patient'.*an empty patient column"),
        ("items.csv", "\xff\xfe", "cannot be read as UTF-8"),
        ("items.csv", 'file,label,patient\n"a.png,1\n', "is not a CSV"),
        ("datalist.json", "{", "not valid JSON"),
        ("datalist.json", "[" * 100_000, "not valid JSON"),
        ("datalist.json", '"a"', "must hold lists of items"),
        ("datalist.json", '{"train_files": []}', "must hold lists of items"),
        ("datalist.json", '{"training": []}', "lists no items"),
        ("other.csv", "file", "neither datalist.json nor items.csv"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(
    tmp_path: Path, make_study: Callable[..., Study], name: str, text: str, says: str
) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=f"site north: .*{says}") as caught:
        read(tmp_path, make_study(source="folder"))
    assert str(tmp_path) not in str(caught.value)


def test_a_folder_that_is_not_there_is_named_by_its_site_alone(
    tmp_path: Path, make_study: Callable[..., Study]
) -> None:
    with pytest.raises(DataError, match="site north: its folder is not there") as caught:
        read(tmp_path / "secret", make_study())
    assert "secret" not in str(caught.value)


def test_a_table_without_a_header_does_not_tell_of_the_patient_in_its_first_line(
    tmp_path: Path, make_study: Callable[..., Study]
) -> None:
    (tmp_path / "items.csv").write_text("smith.png,1,Smith^Anna\njones.png,0,Jones^Tom\n")
    with pytest.raises(DataError, match="no column 'file' nor 'label' nor 'patient' among its 3") as caught:
        read(tmp_path, make_study())
    assert "mith" not in str(caught.value)
