"""A hospital's table: read, checked against the study, turned into numbers; what cannot be used is set aside."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.data.encoding import CellError, encode
from components.data.site_data import SiteData, open_site_data
from components.data.sources import plan_sources
from components.errors import DataError
from components.redaction import redact
from components.study import Study
from tests.references.tiny_table import FEATURES, Patient, patients, records_study, table_study, write_table


def open_site(tmp_path: Path, study: Study, rows: list[Patient] | None = None, site: str = "north") -> SiteData:
    """Open one site's table."""
    if rows is not None:
        write_table(tmp_path / site / "patients.csv", rows)
    source = next(source for source in plan_sources(study, tmp_path) if source.name == site)
    return open_site_data(study, source, tmp_path / "state")


def quarantine(tmp_path: Path) -> list[tuple[str, str]]:
    """Return what was set aside, and why."""
    with (tmp_path / "state" / "quarantine.csv").open() as file:
        return [(row["file"], row["reason"]) for row in csv.DictReader(file)]


def test_a_row_becomes_numbers_with_nan_for_what_is_missing(tmp_path: Path) -> None:
    rows = patients("north", 60)
    rows[0] = {"age": 50, "chol": 0, "sex": "yes", "pain": "atypical", "outcome": "ill"}
    rows[1] = {"age": 61.5, "chol": 250, "sex": "", "pain": "none", "outcome": "0"}
    data = open_site(tmp_path, table_study(), rows)
    table = torch.cat([data.images(split) for split in ("train", "validation", "test")])
    assert any(torch.equal(row.nan_to_num(-1), torch.tensor([50.0, -1, 1, 2])) for row in table)
    assert any(torch.equal(row.nan_to_num(-1), torch.tensor([61.5, 250, -1, 0])) for row in table)
    assert data.counts.usable == 60


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"age": 300}, "age is out of its range"),
        ({"age": "old"}, "age is not a number"),
        ({"sex": 2}, "sex is neither yes nor no"),
        ({"pain": "severe"}, "pain is none of its categories"),
        ({"outcome": "maybe"}, "label is none of the study's classes"),
        ({"outcome": ""}, "missing label"),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside_without_its_values(
    tmp_path: Path, change: Patient, reason: str
) -> None:
    rows = patients("north", 60)
    rows[7] |= change
    data = open_site(tmp_path, table_study(), rows)
    assert quarantine(tmp_path) == [("row 8", reason)]
    assert (data.counts.expected, data.counts.usable) == (60, 59)


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    rows = patients("north", 60)
    before = open_site(tmp_path, table_study(), rows).digest
    assert open_site(tmp_path, table_study(), rows).digest == before
    rows[3]["age"] += 1
    assert open_site(tmp_path, table_study(), rows).digest != before


def spoilt(name: str, value: Callable[[Any], Any]) -> list[Patient]:
    """Return 80 patients with one column changed."""
    return [row | {name: value(row[name])} for row in patients("north", 80)]


MISMATCHES: list[tuple[list[Patient], dict[str, Any], str]] = [
    (spoilt("chol", lambda value: value / 38.67), {}, r"site north: .*chol is out of its range of 60 to 700 \(mg/dl\)"),
    (
        spoilt("sex", lambda value: "fm"[value]),
        {},
        r"sex is neither yes nor no in 80 of 80 rows: is it in another unit",
    ),
    (spoilt("pain", lambda value: value.upper()), {}, r"pain is none of its categories in 80 of 80 rows"),
    (spoilt("age", lambda _: ""), {"most_missing": 0.2}, r"age is missing in 80 of 80 rows; the study allows 0.2"),
]


@pytest.mark.parametrize(("rows", "words", "message"), MISMATCHES)
def test_a_column_that_is_not_the_studys_is_named_before_training(
    tmp_path: Path, rows: list[Patient], words: dict[str, Any], message: str
) -> None:
    study = records_study(features=[FEATURES[0] | words, *FEATURES[1:]])
    with pytest.raises(DataError, match=message) as caught:
        open_site(tmp_path, study, rows)
    assert "5.9" not in str(caught.value)


def test_every_mismatch_of_a_site_is_named_at_once(tmp_path: Path) -> None:
    rows = [row | {"age": row["age"] * 365, "pain": "?"} for row in patients("north", 80)]
    with pytest.raises(DataError, match=r"age is out of its range .*; pain is none of its categories"):
        open_site(tmp_path, table_study(), rows)


def test_a_missing_column_is_named_and_the_others_are_not(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "chol"} for row in patients("north", 80)]
    with pytest.raises(DataError, match="its table lacks the column chol; it has 4 columns") as caught:
        open_site(tmp_path, table_study(), rows)
    assert "outcome" not in str(caught.value)


def test_a_site_with_one_class_only_takes_no_part(tmp_path: Path) -> None:
    rows = [row | {"outcome": "ill"} for row in patients("north", 80)]
    with pytest.raises(DataError, match="all of one class"):
        open_site(tmp_path, table_study(), rows)


def test_unknown_labels_are_counted_and_never_shown(tmp_path: Path) -> None:
    rows = [row | {"outcome": "krank" if row["outcome"] == "ill" else "gesund"} for row in patients("north", 80)]
    with pytest.raises(DataError, match="80 x label is none of the study's classes") as caught:
        open_site(tmp_path, table_study(), rows)
    assert "krank" not in str(caught.value)


def test_labels_by_value_are_found_whatever_they_look_like_as_numbers(tmp_path: Path) -> None:
    study = records_study(labels={"well": [0], "ill": [1, 2, "yes"]})
    codes = {"well": "0.0", "ill": "2"}
    data = open_site(tmp_path, study, [row | {"outcome": codes[row["outcome"]]} for row in patients("north", 80)])
    plain = open_site(tmp_path, table_study(), patients("north", 80))
    assert data.class_counts == plain.class_counts


def test_a_file_without_names_is_read_by_position(tmp_path: Path) -> None:
    rows = patients("north", 60)
    study = records_study(header=["age", "chol", "sex", "pain", "outcome"])
    path = write_table(tmp_path / "north" / "patients.csv", rows)
    named = open_site(tmp_path, study)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert open_site(tmp_path, study).digest == named.digest


HEADLESS = {"header": ["age", "chol", "sex", "pain", "outcome"]}


@pytest.mark.parametrize("records", [{}, HEADLESS])
@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: text.replace("chol", "cholesterol"), "its table lacks the column chol; it has 5 columns"),
        (lambda text: text.replace(",", ";"), "is not separated by commas: is it by semicolons"),
        (lambda text: text.replace(",", "\t"), "is not separated by commas: is it by tabs"),
        (lambda text: text + "1,2\n3,4\n", "2 of 62 lines of its table do not have the 5 columns that it should have$"),
    ],
)
def test_a_table_says_what_it_lacks_by_its_first_line(
    tmp_path: Path, records: dict[str, Any], edit: Callable[[str], str], says: str
) -> None:
    path = write_table(tmp_path / "north" / "patients.csv", patients("north", 60))
    path.write_text(edit(path.read_text()))
    with pytest.raises(DataError, match=says) as told:
        open_site(tmp_path, records_study(**records))
    assert redact(str(told.value)) == str(told.value)


@pytest.mark.parametrize(("mark", "says"), [(";", "is it by semicolons"), (",", "2 of 2 lines .* as the study does$")])
def test_a_table_without_names_says_what_it_lacks(tmp_path: Path, mark: str, says: str) -> None:
    write_table(tmp_path / "north" / "patients.csv", patients("north", 60))
    row = ["50", "200", "1", "none", "ill"] if mark == ";" else ["50", "200", "1"]
    (tmp_path / "north" / "patients.csv").write_text(f"{mark.join(row)}\n" * 2)
    with pytest.raises(DataError, match=says):
        open_site(tmp_path, records_study(**HEADLESS))


def test_parquet_gives_the_rows_of_the_csv(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = patients("north", 60)
    data = open_site(tmp_path, table_study(), rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "north" / "patients.csv")
    again = open_site(tmp_path, table_study())
    assert torch.equal(again.images("train").nan_to_num(-1), data.images("train").nan_to_num(-1))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"unit": "mmol/l"}, "chol: unit is mmol/l there, mg/dl in the study"),
        ({"type": "boolean"}, "chol: type is boolean there, numeric in the study"),
        ({"code": "LOINC 14647-2"}, "chol: code is LOINC 14647-2 there, none in the study"),
        ({"type": "categorical"}, r"chol: its features\.yaml does not describe it as a study would"),
    ],
)
def test_a_hospitals_own_feature_file_must_agree_with_the_studys(
    tmp_path: Path, own: dict[str, str], message: str
) -> None:
    said = [{"name": "chol", **own}, {"name": "age", "unit": "years"}, {"name": "sex"}, {"name": "pain"}]
    write_table(tmp_path / "north" / "patients.csv", patients("north", 60))
    (tmp_path / "north" / "features.yaml").write_text(f"features: {said}".replace("'", '"'))
    with pytest.raises(DataError, match=f"site north: its table is not what the study says: {message}$"):
        open_site(tmp_path, table_study())


def test_a_hospitals_own_feature_file_that_agrees_changes_nothing(tmp_path: Path) -> None:
    plain = open_site(tmp_path, table_study(), patients("north", 60))
    said = [{"name": item["name"]} | ({"unit": item["unit"]} if "unit" in item else {}) for item in FEATURES]
    (tmp_path / "north" / "features.yaml").write_text(f"features: {said}".replace("'", '"'))
    assert open_site(tmp_path, table_study()).digest == plain.digest


def test_codes_are_the_same_as_text_and_as_numbers() -> None:
    feature = {"name": "cp", "type": "categorical", "categories": ["1", "2"], "missing": ["?", "-9"]}
    assert [encode(cell, feature) for cell in ("2", "2.0", 2, 2.0)] == [1.0] * 4
    assert all(encode(cell, feature) != encode(cell, feature) for cell in ("?", -9, "-9.0", None, "", float("nan")))
    with pytest.raises(CellError, match="cp is none of its categories"):
        encode("3", feature)
