"""Folders of FHIR and OMOP: what of a hospital's records becomes a row, what is refused, and what is never said."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.data.listing import Row
from components.data.patients import ReadPatients, read_patients
from components.data.site_data import open_site_data
from components.data.sources import plan_sources
from components.errors import DataError
from components.history import UNITS
from components.redaction import redact
from tests.references import histories
from tests.references.histories import CHOL, INFARCT, INPATIENT, Dated, PatientHistory

Cells = dict[str, Any]
PEOPLE, ROWS = histories.ward("north", 40)


def read(folder: Path, kind: str = "fhir", **changes: Any) -> ReadPatients:
    """Read a folder as the study says."""
    return read_patients(folder, histories.histories_study(kind, **changes).data, "site north")


def remarks(found: ReadPatients) -> set[tuple[str, str]]:
    return {(item.file, item.reason) for item in found.remarks}


def only(found: ReadPatients, patient: str) -> Row:
    return next(row for row in found.rows if row.patient == patient)


def one_more(*records: Dated, birth: str = "1950-05-05", sex: str = "male") -> list[PatientHistory]:
    """The ward, and a patient called 9 with these records."""
    return [*PEOPLE, PatientHistory("9", birth, sex, list(records))]


INDEX, LATER = Dated("visit", INPATIENT, "2019-06-01"), Dated("visit", histories.OUTPATIENT, "2021-01-01")


def ndjson(folder: Path, *items: Cells | str, name: str = "Extra.ndjson") -> Path:
    """Write the ward, and a file with more lines."""
    histories.write_ndjson(folder, one_more(INDEX, LATER))
    text = "\n".join(item if isinstance(item, str) else json.dumps(item) for item in items)
    (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder


def chol(value: float, day: str, ident: str = "extra", **changes: Any) -> Cells:
    """A measurement of patient 9's cholesterol."""
    quantity = {"value": value, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"}
    return {
        "resourceType": "Observation", "id": ident, "status": "final", "subject": {"reference": "Patient/9"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "2093-3"}]}, "effectiveDateTime": day,
        "valueQuantity": quantity,
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    ("item", "cell", "reason"),
    [
        (chol(201.5, "2019-05-01"), "201.5", ""),
        (chol(201.5, "2019-05-01T23:30:00-11:00"), "201.5", ""),
        (chol(201.5, "2019-06-01"), "201.5", ""),
        (chol(201.5, "2019-06-02"), "", ""),
        (chol(201.5, "2018-06-01"), "201.5", ""),
        (chol(201.5, "2018-05-31"), "", ""),
        (chol(201.5, "2019-02"), "201.5", ""),
        (chol(201.5, "2019"), "", "1 x its date is known in part only"),
        (chol(201.5, "2019-02-30"), "", "1 x has a date that is none"),
        (chol(201.5, "2119-02-01"), "", "1 x is dated later than the study's end"),
        (chol(201.5, "2019-05-01", effectiveDateTime=None), "", "1 x has no date"),
        (chol(201.5, "2019-05-01", status="entered-in-error"), "", "1 x entered in error, or never done"),
        (chol(201.5, "2019-05-01", status="preliminary"), "", "1 x not final or not confirmed"),
        (chol(201.5, "2019-05-01", modifierExtension=[{}]), "", "1 x modified by an extension that is not known"),
        (chol(201.5, "2019-05-01", valueQuantity={"value": 201.5}), "", "1 x in another unit"),
        (chol(201.5, "2019-05-01", valueQuantity={"value": 201.5, "unit": "mg/dl"}), "201.5", ""),
        (
            chol(0, "2019-05-01", valueQuantity={"value": 5.2, "unit": "mmol/L", "comparator": "<"}),
            "",
            "1 x is a bound, not a value",
        ),
        (chol(9999, "2019-05-01"), "", "1 x out of its range"),
        (chol(1, "2019-05-01", valueQuantity=None), "", "1 x has no value"),
        (chol(201.5, "2019-05-01", subject={"reference": "Patient/404"}), "", "1 x of nobody among the patients"),
        (chol(201.5, "2019-05-01", subject={"reference": "urn:uuid:404"}), "", "1 x of nobody among the patients"),
        (chol(201.5, "2019-05-01", subject={"reference": "http://ehr/fhir/Patient/9/_history/2"}), "201.5", ""),
        (
            chol(201.5, "2019-05-01", code={"coding": [{"system": "http://lab/own", "code": "2093-3"}]}),
            "",
            "1 x its code in another terminology",
        ),
    ],
)  # fmt: skip
def test_a_measurement_counts_or_is_said_not_to(tmp_path: Path, item: Cells, cell: str, reason: str) -> None:
    found = read(ndjson(tmp_path, item))
    assert only(found, "9").extras["chol"] == cell
    said = {text for name, text in remarks(found) if name == "chol"}
    assert said == ({reason} if reason else set())


def test_the_last_the_first_and_sums_of_several_values_are_taken(tmp_path: Path) -> None:
    days = ("2019-03-01T09:00:00", "2019-05-01T08:00:00", "2019-05-01T09:00:00")
    items = [chol(value, day, f"e{value}") for value, day in zip((300.0, 150.0, 210.0), days, strict=True)]
    folder = ndjson(tmp_path, *items[::-1])
    made = {}
    for take in ("last", "first", "mean", "min", "max"):
        features = [item | {"take": take} if item["name"] == "chol" else item for item in histories.FEATURES]
        made[take] = float(only(read(folder, features=features), "9").extras["chol"])
    assert made == {"last": 210.0, "first": 300.0, "mean": 220.0, "min": 150.0, "max": 300.0}


def test_the_same_resource_twice_counts_once(tmp_path: Path) -> None:
    visit = {
        "resourceType": "Encounter", "id": "v", "status": "finished", "subject": {"reference": "Patient/9"},
        "class": {"system": histories.ACT, "code": "AMB"}, "period": {"start": "2019-05-01"},
    }  # fmt: skip
    found = read(ndjson(tmp_path, visit, visit))
    assert only(found, "9").extras["visits"] == "1"
    assert ("visits", "1 x twice") in remarks(found)


def test_a_unit_is_converted_only_where_the_study_says_by_what(tmp_path: Path) -> None:
    quantity = {"value": 5, "unit": "mmol/L", "system": "http://unitsofmeasure.org", "code": "mmol/L"}
    folder = ndjson(tmp_path, chol(5, "2019-05-01", valueQuantity=quantity))
    features = [item | {"convert": {"mmol/L": 40}} if item["name"] == "chol" else item for item in histories.FEATURES]
    assert only(read(folder), "9").extras["chol"] == ""
    assert only(read(folder, features=features), "9").extras["chol"] == "200.0"


@pytest.mark.parametrize(
    ("records", "label", "left_out"),
    [
        ([INDEX, LATER], "0", ""),
        ([INDEX, Dated("condition", INFARCT, "2019-06-02")], "1", ""),
        ([INDEX, Dated("condition", INFARCT, "2020-05-31")], "1", ""),
        ([INDEX, Dated("condition", INFARCT, "2020-06-01")], "0", ""),
        ([INDEX, Dated("condition", INFARCT, "2019-06-01")], None, "1 x had it before"),
        ([INDEX, Dated("condition", INFARCT, "1999")], None, "1 x had it before"),
        ([INDEX, Dated("condition", INFARCT, "2020")], None, "1 x date of the label known in part only"),
        ([INDEX, Dated("condition", INFARCT, "2019-07")], "1", ""),
        ([INDEX, Dated("condition", INFARCT, "2019-06"), LATER], None, "1 x date of the label known in part only"),
        ([INDEX], None, "1 x not looked on for long enough"),
        ([INDEX, Dated("visit", histories.OUTPATIENT, "2020-05-30")], None, "1 x not looked on for long enough"),
        ([INDEX, Dated("visit", histories.OUTPATIENT, "2020-05-31")], "0", ""),
        ([INDEX, Dated("visit", histories.OUTPATIENT, "2119-05-31")], None, "1 x not looked on for long enough"),
        ([Dated("visit", INPATIENT, "2018-06-01"), LATER], None, "1 x no index date"),
        ([Dated("visit", INPATIENT, "2019-06"), LATER], None, "1 x no index date"),
    ],
)
@pytest.mark.parametrize("kind", ["fhir", "omop"])
def test_who_takes_part_and_with_which_label(
    tmp_path: Path, kind: str, records: list[Dated], label: str | None, left_out: str
) -> None:
    people = one_more(*records)
    if kind == "fhir":
        histories.write_ndjson(tmp_path, people)
    else:
        histories.write_omop(tmp_path, people)
    found = read(tmp_path, kind)
    assert [row.label for row in found.rows if row.patient == "9"] == ([] if label is None else [label])
    assert [text for name, text in remarks(found) if name == "patients"] == ([left_out] if left_out else [])


def test_a_window_that_ends_after_the_records_leaves_a_case_out_as_it_does_the_others(tmp_path: Path) -> None:
    histories.write_ndjson(tmp_path, one_more(INDEX, Dated("condition", INFARCT, "2019-06-02")))
    history = histories.HISTORY | {"until": "2020-05-30"}
    found = read(tmp_path, history=history)
    assert "9" not in {row.patient for row in found.rows}


def test_a_record_in_error_is_no_sign_that_a_patient_was_looked_on(tmp_path: Path) -> None:
    void = chol(200, "2021-01-01", status="entered-in-error")
    histories.write_ndjson(tmp_path, one_more(INDEX))
    (tmp_path / "More.ndjson").write_text(json.dumps(void))
    assert ("patients", "1 x not looked on for long enough") in remarks(read(tmp_path))
    (tmp_path / "More.ndjson").write_text(json.dumps(void | {"status": "final"}))
    assert only(read(tmp_path), "9").label == "0"


def omop_with(folder: Path, **cells: Any) -> ReadPatients:
    """Read OMOP in which patient 9's cholesterol, 200, is written with other cells."""
    tables = histories.omop_tables(one_more(INDEX, LATER, Dated("measurement", CHOL, "2019-05-01", 200.0, "mg/dL")))
    for row in tables["measurement"]:
        row["measurement_source_concept_id"] = 0
    tables["measurement"][-1] |= cells
    for name, rows in tables.items():
        histories._write_csv(folder / f"{name}.csv", rows)
    return read(folder, "omop")


@pytest.mark.parametrize(
    ("cells", "cell", "reason"),
    [
        ({}, "200.0", ""),
        ({"operator_concept_id": 4172703}, "200.0", ""),
        ({"operator_concept_id": 4171756}, "", "1 x is a bound, not a value"),
        ({"measurement_concept_id": 0, "measurement_source_concept_id": CHOL[2]}, "200.0", ""),
        ({"measurement_concept_id": f"{CHOL[2]}.0"}, "200.0", ""),
        ({"person_id": 404}, "", "1 x of nobody among the patients"),
        ({"value_as_number": ""}, "", "1 x has no value"),
        ({"value_as_number": "high"}, "", "1 x no number"),
        ({"measurement_date": ""}, "", "1 x has no date"),
        ({"measurement_datetime": "2019-06-02 01:00:00"}, "200.0", ""),
        ({"unit_concept_id": 8753, "unit_source_value": "mmol/L"}, "", "1 x in another unit"),
    ],
)
def test_a_row_of_omop_counts_or_is_said_not_to(tmp_path: Path, cells: Cells, cell: str, reason: str) -> None:
    found = omop_with(tmp_path, **cells)
    assert only(found, "9").extras["chol"] == cell
    assert {text for name, text in remarks(found) if name == "chol"} == ({reason} if reason else set())


def test_ages_are_a_matter_of_the_study(tmp_path: Path) -> None:
    histories.write_ndjson(tmp_path, PEOPLE)
    found = read(tmp_path, history=histories.HISTORY | {"ages": [60, 70]})
    ages = {row["patient"]: row["age"] for row in ROWS}
    assert [row.patient for row in found.rows] == [ident for ident, age in ages.items() if 60 <= age <= 70]


def set_aside(tmp_path: Path, people: list[PatientHistory], *more: Cells) -> list[tuple[str, str]]:
    """Open a site; return the patients in its quarantine list."""
    folder = histories.write_ndjson(tmp_path / "north", people)
    (folder / "More.ndjson").write_text("".join(f"{json.dumps(item)}\n" for item in more))
    study = histories.histories_study("fhir")
    source = next(source for source in plan_sources(study, tmp_path) if source.name == "north")
    open_site_data(study, source, tmp_path / "state")
    with (tmp_path / "state" / "quarantine.csv").open() as file:
        return [(row["file"], row["reason"]) for row in csv.DictReader(file) if row["file"].startswith("patient ")]


@pytest.mark.parametrize(
    ("birth", "reason"), [("2019-06-02", "birth date is after the index date"), ("soon", "birth date is none")]
)
def test_a_patient_with_an_impossible_birth_date_is_set_aside(tmp_path: Path, birth: str, reason: str) -> None:
    assert set_aside(tmp_path, one_more(INDEX, LATER, birth=birth)) == [("patient 9", reason)]


def test_a_patient_who_is_there_twice_and_unlike_is_set_aside(tmp_path: Path) -> None:
    again = {"resourceType": "Patient", "id": "9", "birthDate": "1951-05-05", "gender": "male"}
    assert set_aside(tmp_path, one_more(INDEX, LATER), again) == [("patient 9", "there twice, unlike")]
    same = again | {"birthDate": "1950-05-05"}
    assert set_aside(tmp_path, one_more(INDEX, LATER), same) == []


@pytest.mark.parametrize(("birth", "age"), [("", ""), ("1950", "68"), ("1950-05", "69"), ("1950-06-01", "69")])
def test_an_age_is_missing_without_a_birth_date_and_taken_from_the_middle_of_one_in_part(
    tmp_path: Path, birth: str, age: str
) -> None:
    folder = histories.write_ndjson(tmp_path, one_more(INDEX, LATER, birth=birth))
    assert only(read(folder), "9").extras["age"] == age


def truncate(folder: Path) -> None:
    file = folder / "Condition.ndjson"
    file.write_text(file.read_text()[:-40])


def pack_badly(folder: Path) -> None:
    (folder / "More.ndjson.gz").write_bytes(b"\x1f\x8b\x08\x00")


def not_a_number(folder: Path) -> None:
    (folder / "Doe_John.json").write_text('{"resourceType": "Patient", "id": "7", "x": NaN}')


def nest(folder: Path) -> None:
    (folder / "Doe_John.json").write_text("[" * 100_000)


def other_version(folder: Path) -> None:
    item = {"resourceType": "Encounter", "class": [{"coding": []}], "actualPeriod": {"start": "2019-01-01"}}
    (folder / "Doe_John.json").write_text(json.dumps(item))


def old_versions(folder: Path) -> None:
    (folder / "Doe_John.json").write_text(json.dumps({"resourceType": "Bundle", "type": "history", "entry": []}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "one of its files is truncated, or no JSON in UTF-8"),
        (pack_badly, "one of its files is truncated, or no JSON in UTF-8"),
        (not_a_number, "one of its files is truncated, or no JSON in UTF-8"),
        (nest, "one of its files is truncated, or no JSON in UTF-8"),
        (other_version, "its records are not FHIR R4: an Encounter is of another version"),
        (old_versions, "its records are not FHIR R4: a bundle is none of"),
    ],
)
def test_a_file_that_cannot_be_read_whole_ends_it_and_is_named_at_the_hospital_alone(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(histories.write_ndjson(tmp_path, PEOPLE))
    with pytest.raises(DataError, match=f"site north: {message}") as caught:
        read(tmp_path)
    assert "Doe" not in str(caught.value)
    assert str(tmp_path) in "".join(caught.value.__notes__)
    assert redact(str(caught.value)) == str(caught.value)


def test_a_bundle_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.fhir.MOST_BYTES", 1 << 20)
    histories.write_ndjson(tmp_path, PEOPLE)
    (tmp_path / "all.json").write_text(" " * ((1 << 20) + 1))
    with pytest.raises(DataError, match="more than 1 MiB: export it as NDJSON, or as several bundles"):
        read(tmp_path)


def test_strange_resources_are_passed_over_or_counted(tmp_path: Path) -> None:
    strange = [{}, [], 3, {"resourceType": "Patient"}, {"resourceType": "Practitioner", "id": 5}]
    odd = {"resourceType": "Observation", "subject": [], "code": {"coding": {"code": []}}, "component": [7]}
    found = read(ndjson(tmp_path, *map(json.dumps, [*strange, odd])))
    assert remarks(found) == {("records", "3 x a resource without a type"), ("records", "1 x a patient without an id")}


def change(kind: str, folder: Path, edit: Callable[[Dated], None]) -> Path:
    """Write the ward in a format with its records edited."""
    people, _ = histories.ward("north", 40)
    for record in (record for person in people for record in person.records):
        edit(record)
    return histories.write_ndjson(folder, people) if kind == "fhir" else histories.write_omop(folder, people)


def in_mmol(record: Dated) -> None:
    if record.code == CHOL:
        record.number, record.unit = round((record.number or 0) / 38.67, 2), "mmol/L"


def in_words(record: Dated) -> None:
    if record.code == CHOL:
        record.unit = "Doe"


def own_code(record: Dated) -> None:
    if record.code == CHOL:
        record.code = ("http://lab/own", "2093-3", 2000000007)


@pytest.mark.parametrize("kind", ["fhir", "omop"])
def test_other_units_and_codes_are_named_by_feature_and_never_with_a_value(tmp_path: Path, kind: str) -> None:
    message = "site north: its records are not what the study says: "
    with pytest.raises(DataError) as caught:
        read(change(kind, tmp_path / "a", in_mmol), kind)
    assert str(caught.value).startswith(f"{message}chol is in another unit than mg/dl (mmol/l) in ")
    assert redact(str(caught.value), keep=UNITS) == str(caught.value)
    with pytest.raises(DataError, match=r"chol is in another unit than mg/dl \(one not known\)") as caught:
        read(change(kind, tmp_path / "b", in_words), kind)
    assert "Doe" not in str(caught.value)
    stray = r", and \d+ have its code in another terminology" if kind == "fhir" else ""
    with pytest.raises(DataError, match=rf"{message}no record has a code of chol{stray}\. Its codes.yaml may say"):
        read(change(kind, tmp_path / "c", own_code), kind)


@pytest.mark.parametrize("kind", ["fhir", "omop"])
def test_a_hospital_maps_its_own_codes_and_units(tmp_path: Path, kind: str) -> None:
    expected = [row.extras for row in read(change(kind, tmp_path / "as_is", lambda _: None), kind).rows]
    folder = change(kind, tmp_path / "mapped", own_code)
    own = "codes: {LOINC 2093-3: ['http://lab/own 2093-3', OMOP 2000000007]}"
    (folder / "codes.yaml").write_text(own)
    assert [row.extras for row in read(folder, kind).rows] == expected
    spelt = change(kind, tmp_path / "spelt", in_words)
    (spelt / "codes.yaml").write_text("units: {mg/dl: [Doe]}")
    assert [row.extras for row in read(spelt, kind).rows] == expected


def test_a_hospital_may_say_that_it_does_not_record_something(tmp_path: Path) -> None:
    folder = change("fhir", tmp_path, own_code)
    (folder / "codes.yaml").write_text("codes: {LOINC 2093-3: []}")
    assert {row.extras["chol"] for row in read(folder).rows} == {""}


@pytest.mark.parametrize(
    "text",
    ["codes: [Doe]", "codes: {LOINC 2093-3: Doe}", "codes: {Doe: []}", "Doe: {}", "codes: {LOINC 1-1: [Doe]}", ":"],
)
def test_a_hospitals_codes_must_be_codes(tmp_path: Path, text: str) -> None:
    folder = histories.write_ndjson(tmp_path, PEOPLE)
    (folder / "codes.yaml").write_text(text)
    with pytest.raises(DataError, match=r"site north: its codes\.yaml (must hold|holds a code)") as caught:
        read(folder)
    assert "Doe" not in str(caught.value)


def test_codes_of_other_terminologies_are_looked_up_in_the_concepts(tmp_path: Path) -> None:
    features = [
        {key: cell for key, cell in item.items() if key != "also" or item["name"] == "visits"}
        for item in histories.FEATURES
    ]
    features = [item | {"unit": "mg/dL"} if item["name"] == "chol" else item for item in features]
    expected = [row.extras for row in read(histories.write_omop(tmp_path / "a", PEOPLE), "omop").rows]
    folder = change("omop", tmp_path / "b", lambda _: None)
    with pytest.raises(DataError, match="nothing says which concepts of OMOP chol, systolic, diabetes"):
        read(folder, "omop", features=features)
    concepts = [("LOINC", "2093-3", 3027114), ("LOINC", "8480-6", 3004249), ("SNOMED", "44054006", 201826)]
    concepts += [("LOINC", "72166-2", 40766945), ("RxNorm", "83367", 1545958)]
    rows = [{"concept_id": code[2], "vocabulary_id": code[0], "concept_code": code[1]} for code in concepts]
    histories._write_csv(folder / "CONCEPT.csv", rows)
    assert [row.extras for row in read(folder, "omop", features=features).rows] == expected


def test_a_unit_by_its_concept_is_known_from_the_concepts_or_the_hospital(tmp_path: Path) -> None:
    def by_concept(folder: Path) -> Path:
        tables = histories.omop_tables(PEOPLE)
        for row in tables["measurement"]:
            if row["measurement_concept_id"] == CHOL[2]:
                row |= {"unit_concept_id": 8840, "unit_source_value": ""}
        for name, rows in tables.items():
            histories._write_csv(folder / f"{name}.csv", rows)
        return folder

    folder = by_concept(tmp_path)
    with pytest.raises(DataError, match=r"chol is in another unit than mg/dl \(one not known\)"):
        read(folder, "omop")
    (folder / "codes.yaml").write_text("units: {mg/dl: [OMOP 8840]}")
    expected = [row.extras for row in read(folder, "omop").rows]
    assert any(cells["chol"] for cells in expected)
    (folder / "codes.yaml").unlink()
    histories._write_csv(
        folder / "concept.csv", [{"concept_id": 8840, "vocabulary_id": "UCUM", "concept_code": "mg/dL"}]
    )
    assert [row.extras for row in read(folder, "omop").rows] == expected


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "person.csv").unlink(), "there is no table person"),
        (lambda folder: (folder / "measurement.csv").unlink(), "there is no table measurement"),
        (lambda folder: (folder / "person.csv").write_text("person_id\n1\n"), "lacks the column gender_concept_id"),
        (
            lambda folder: (folder / "measurement.csv").write_bytes((folder / "measurement.csv").read_bytes()[:-9]),
            "its table measurement is damaged or truncated",
        ),
        (lambda folder: (folder / "person.csv").write_bytes(b"\xff\xfe"), "its table person is damaged or truncated"),
    ],
)  # fmt: skip
def test_tables_that_are_not_those_of_omop_are_named(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(histories.write_omop(tmp_path, PEOPLE))
    with pytest.raises(DataError, match=f"site north: .*{message}"):
        read(tmp_path, "omop")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fhir", "its records have no Patient resources"),
        ("omop", "no table person"),
        ("any", "its folder has no records"),
    ],
)
def test_an_empty_folder_is_said_to_be_one(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, kind)


def test_a_table_is_read_in_parts_and_unpacked(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    expected = [row.extras for row in read(histories.write_omop(tmp_path / "whole", PEOPLE), "omop").rows]
    folder = histories.write_omop(tmp_path / "parts", PEOPLE)
    (folder / "measurement.csv").unlink()
    rows = [{key: str(cell) for key, cell in row.items()} for row in histories.omop_tables(PEOPLE)["measurement"]]
    (folder / "measurement").mkdir()
    for number in range(3):
        part = pyarrow.Table.from_pylist(rows[number::3])
        pyarrow.parquet.write_table(part, folder / "measurement" / f"part-{number}.parquet", row_group_size=5)
    assert [row.extras for row in read(folder, "omop").rows] == expected
