"""Time to an event, and the arm, from dated records: by hand, in FHIR and OMOP; what a file can get wrong is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.data.labels import Observation
from components.data.patients import ReadPatients, read_patients
from components.data.site_data import open_site_data
from components.data.sources import plan_sources
from components.errors import DataError
from components.study import Study
from tests.references import followed, histories
from tests.references.followed import NEW, OLD
from tests.references.histories import INFARCT, INPATIENT, OUTPATIENT, Dated, PatientHistory

PEOPLE, _ = followed.ward("north", 30)
INDEX, SEEN = Dated("visit", INPATIENT, "2018-06-01", end="2018-06-05"), Dated("visit", OUTPATIENT, "2018-08-10")
DRUG = Dated("medication", NEW, "2018-05-30")


def infarct(day: str) -> Dated:
    return Dated("condition", INFARCT, day)


def label(**changes: Any) -> dict[str, Any]:
    """A history whose label has these changes."""
    return followed.HISTORY | {"label": followed.LABEL | changes}


def read(folder: Path, kind: str, *records: Dated, died: str = "", unit: str = "days", **changes: Any) -> ReadPatients:
    """Write the ward and a patient called 9 with these records; read all as the study says."""
    people = [*PEOPLE, PatientHistory("9", "1950-05-05", "male", list(records), died)]
    (histories.write_ndjson if kind == "fhir" else histories.write_omop)(folder, people)
    return read_patients(folder, followed.histories_study(kind, **changes).data, "site north", unit=unit)


def outcome(found: ReadPatients) -> tuple[str, str] | str:
    """Patient 9's time and event; or why they are left out or set aside."""
    mine = next((row for row in found.rows if row.patient == "9"), None)
    if mine is None:
        return next(item.reason for item in found.remarks if item.file == "patients").removeprefix("1 x ")
    if mine.fault:
        return mine.fault
    assert isinstance(mine.label, Observation)
    return mine.label.time, str(mine.label.event)


@pytest.mark.parametrize(
    ("records", "died", "changes", "expected"),
    [
        ([infarct("2018-06-11"), SEEN], "", {}, ("10", "1")),
        ([infarct("2018-07-11"), infarct("2018-06-11")], "", {}, ("10", "1")),
        ([SEEN], "", {}, ("70", "0")),
        ([], "", {}, ("4", "0")),  # the end of the stay in hospital
        ([SEEN], "2018-06-21", {}, ("20", "0")),  # a bill after death is no sign of life
        ([SEEN], "2018-09-09", {}, ("100", "0")),
        ([infarct("2018-07-11"), SEEN], "2018-06-21", {}, ("20", "0")),
        ([infarct("2018-06-21"), SEEN], "2018-06-21", {}, ("20", "1")),
        ([SEEN], "2018-06-21", {"death": True}, ("20", "1")),
        ([SEEN], "2018-06-21", {"death": True, "codes": []}, ("20", "1")),
        ([SEEN], "2018-06-02", {"death": True}, ("1", "1")),
        ([infarct("2018-06-11"), SEEN], "2018-06-21", {"death": True, "codes": []}, ("20", "1")),
        ([Dated("visit", OUTPATIENT, "2021-06-01")], "", {}, ("730", "0")),
        ([infarct("2020-06-01"), Dated("visit", OUTPATIENT, "2021-06-01")], "", {}, ("730", "0")),
        ([infarct("2018-06-03"), SEEN], "", {"window_days": [3, 730]}, "had it before"),
        ([infarct("2018-06-03"), SEEN], "", {"window_days": [3, 730], "new": False}, ("70", "0")),
        ([infarct("2018-06-01"), SEEN], "", {}, "had it before"),
        ([infarct("2001"), SEEN], "", {}, "had it before"),
        ([infarct("2001"), infarct("2018-06-11")], "", {"new": False}, ("10", "1")),
        ([infarct("2018-06"), SEEN], "", {}, "date of the label known in part only"),
        ([infarct("2018-07"), SEEN], "", {}, "date of the label known in part only"),
        ([infarct("2018-07"), infarct("2018-06-11")], "", {}, ("10", "1")),
        ([infarct("2019"), SEEN], "", {}, "date of the label known in part only"),
        ([infarct("2019"), SEEN], "", {"window_days": [1, 100]}, ("100", "0")),
        ([SEEN], "2018-07", {"death": True}, "date of the label known in part only"),
        ([SEEN], "2018-07", {}, ("60", "0")),
        ([SEEN], "2018-06-01", {}, "died before the label's window"),
        ([SEEN], "2018-05-31", {}, "died before the index date"),
        ([SEEN], "2018-05", {}, "died before the index date"),
        ([SEEN], "2018-06-01", {"death": True}, "died before the label's window"),
        ([], "", {"window_days": [5, 730]}, "not looked on for long enough"),
        ([Dated("procedure", histories.CHOL, "2018-07-01")], "", {}, ("30", "0")),
        ([Dated("procedure", histories.CHOL, "2018-07-01")], "", {"follow_up": "visit"}, ("4", "0")),
        ([infarct("2018-07-01")], "", {"follow_up": "visit"}, ("4", "0")),
    ],
)
@pytest.mark.parametrize("kind", ["fhir", "omop"])
def test_the_time_runs_from_the_index_date_to_the_event_or_the_end_of_observation(
    tmp_path: Path, kind: str, records: list[Dated], died: str, changes: dict[str, Any], expected: tuple[str, str] | str
) -> None:
    found = read(tmp_path, kind, INDEX, DRUG, *records, died=died, history=label(**changes))
    assert outcome(found) == expected


@pytest.mark.parametrize("until", ["2018-07-01", "2018-06-03"])
def test_nobody_is_looked_on_for_longer_than_the_records(tmp_path: Path, until: str) -> None:
    history = followed.HISTORY | {"until": until}
    found = read(
        tmp_path, "fhir", INDEX, DRUG, infarct("2018-07-11"), Dated("visit", OUTPATIENT, until), history=history
    )
    assert outcome(found) == ("30" if until == "2018-07-01" else "2", "0")


@pytest.mark.parametrize(("unit", "time"), [("weeks", 70 / 7), ("months", 70 / 30.4375), ("years", 70 / 365.25)])
def test_a_time_is_in_the_tasks_unit(tmp_path: Path, unit: str, time: float) -> None:
    said = outcome(read(tmp_path, "fhir", INDEX, DRUG, SEEN, unit=unit))
    assert (float(said[0]), said[1]) == (time, "0")


@pytest.mark.parametrize(
    ("deceased", "expected"), [(False, ("70", "1")), (True, "date of the label known in part only")]
)
def test_a_death_on_a_day_that_nobody_wrote_down_is_no_survival(
    tmp_path: Path, deceased: bool, expected: tuple[str, str] | str
) -> None:
    people = [*PEOPLE, PatientHistory("9", "1950-05-05", "male", [INDEX, DRUG], "" if deceased else "2018-08-10")]
    lines = (histories.write_ndjson(tmp_path, people) / "Patient.ndjson").read_text().splitlines()
    mine = json.loads(lines[-1]) | ({"deceasedBoolean": True} if deceased else {})
    (tmp_path / "Patient.ndjson").write_text("\n".join([*lines[:-1], json.dumps(mine)]))
    study = followed.histories_study("fhir", history=label(death=True))
    assert outcome(read_patients(tmp_path, study.data, "site north")) == expected


PERIODS = [("2017-01-01", "2018-07-01"), ("2019-01-01", "2020-01-01")]


def omop_with_periods(folder: Path, periods: list[tuple[str, str]], *records: Dated, died: str = "") -> ReadPatients:
    """Read OMOP in which patient 9 has these observation periods, and the others one for all time."""
    people = [*PEOPLE, PatientHistory("9", "1950-05-05", "male", [INDEX, DRUG, *records], died)]
    histories.write_omop(folder, people)
    days = "observation_period_start_date", "observation_period_end_date"
    rows = [dict(zip(days, ("2000-01-01", "2022-01-01"), strict=True)) | {"person_id": one.ident} for one in PEOPLE]
    rows += [dict(zip(days, period, strict=True)) | {"person_id": "9"} for period in periods]
    histories._write_csv(folder / "observation_period.csv", rows)
    study = followed.histories_study("omop", history=label(follow_up="period"))
    return read_patients(folder, study.data, "site north")


@pytest.mark.parametrize(
    ("periods", "records", "died", "expected"),
    [
        (PERIODS, [SEEN], "", ("30", "0")),
        (PERIODS, [infarct("2018-06-11")], "", ("10", "1")),
        (PERIODS, [infarct("2018-07-11")], "", ("30", "0")),
        (PERIODS, [SEEN], "2018-06-21", ("20", "0")),
        (PERIODS[1:], [SEEN], "", "index date is in no observation period"),
        ([("2018-09-01", "2018-01-01")], [SEEN], "", "index date is in no observation period"),
    ],
)
def test_an_observation_period_says_until_when(
    tmp_path: Path, periods: list[tuple[str, str]], records: list[Dated], died: str, expected: tuple[str, str] | str
) -> None:
    found = omop_with_periods(tmp_path, periods, *records, died=died)
    assert outcome(found) == expected
    backwards = ("observation period", "1 x ends before it begins, or never")
    assert (backwards in {(item.file, item.reason) for item in found.remarks}) == (periods[0][0] == "2018-09-01")


def test_observation_periods_that_nobody_has_are_asked_for_in_vain(tmp_path: Path) -> None:
    history = label(follow_up="period")
    with pytest.raises(
        DataError, match="site north: FHIR has no observation periods: ask for follow_up: record, or vi"
    ):
        read(tmp_path / "fhir", "fhir", history=history)
    with pytest.raises(DataError, match="site north: there is no table observation_period"):
        read(tmp_path / "omop", "omop", history=history)


@pytest.mark.parametrize(
    ("kind", "said"), [("fhir", "nobody has a date of death"), ("omop", "there is no table death")]
)
def test_a_hospital_that_records_no_death_cannot_say_who_died(tmp_path: Path, kind: str, said: str) -> None:
    people = [PatientHistory(one.ident, one.birth, one.sex, one.records) for one in PEOPLE]
    (histories.write_ndjson if kind == "fhir" else histories.write_omop)(tmp_path, people)
    with pytest.raises(DataError, match=f"site north: .*{said}"):
        read_patients(tmp_path, followed.histories_study(kind, history=label(death=True)).data, "site north")
    assert read_patients(tmp_path, followed.histories_study(kind).data, "site north").rows


def drug(code: tuple[str, str, int], day: str) -> Dated:
    return Dated("medication", code, day)


@pytest.mark.parametrize(
    ("records", "codes", "expected"),
    [
        ([drug(NEW, "2018-05-22")], None, "new"),
        ([drug(NEW, "2018-06-01")], None, "new"),
        ([drug(OLD, "2018-05-30"), drug(NEW, "2018-05-21")], None, "old"),
        ([drug(OLD, "2018-05-30"), drug(NEW, "2018-06-02")], None, "old"),
        ([drug(OLD, "2018-05-30"), drug(NEW, "2018-05-30")], None, "of both arms"),
        ([drug(NEW, "2018-05-21")], None, "of neither arm"),
        ([drug(OLD, "2018-05-30"), drug(NEW, "2018-05")], None, "date of what they were given known in part only"),
        ([drug(NEW, "2018-05-30")], ["new"], "new"),
        ([drug(OLD, "2018-05-30")], ["new"], "old"),
        ([], ["new"], "old"),
    ],
)
@pytest.mark.parametrize("kind", ["fhir", "omop"])
def test_the_arm_is_what_was_given_on_the_days_of_its_window(
    tmp_path: Path, kind: str, records: list[Dated], codes: list[str] | None, expected: str
) -> None:
    given = followed.GIVEN | ({"codes": {name: followed.GIVEN["codes"][name] for name in codes}} if codes else {})
    found = read(tmp_path, kind, INDEX, SEEN, *records, arm=followed.ARM | {"given": given})
    mine = [row.extras["drug"] for row in found.rows if row.patient == "9"]
    assert (mine or [outcome(found)]) == [expected]


RESOURCES = {
    "MedicationAdministration": {"medicationCodeableConcept": "code", "effectivePeriod": {"start": "2018-05-30"}},
    "MedicationStatement": {"medicationCodeableConcept": "code", "effectiveDateTime": "2018-05-30"},
    "MedicationRequest": {"medicationCodeableConcept": "code", "authoredOn": "2018-05-30"},
    "Procedure": {"code": "code", "performedDateTime": "2018-05-30"},
}


@pytest.mark.parametrize(
    ("status", "drug"), [("completed", ["new"]), ("entered-in-error", ["old"]), ("not-done", ["old"])]
)
@pytest.mark.parametrize("kind", RESOURCES)
def test_an_arm_is_read_from_each_kind_of_resource(tmp_path: Path, kind: str, status: str, drug: list[str]) -> None:
    coded = {"coding": [{"system": NEW[0], "code": NEW[1]}]}
    item = {name: coded if value == "code" else value for name, value in RESOURCES[kind].items()}
    item |= {"resourceType": kind, "id": "given", "status": status, "subject": {"reference": "Patient/9"}}
    record = "procedure" if kind == "Procedure" else "medication"
    people = [*PEOPLE, PatientHistory("9", "1950-05-05", "male", [INDEX, SEEN])]
    histories.write_ndjson(
        tmp_path, [*people, PatientHistory("8", "1950-05-05", "male", [Dated(record, NEW, "2018-01-01")])]
    )
    (tmp_path / "Given.ndjson").write_text(json.dumps(item))
    given = {"record": record, "codes": {"new": followed.GIVEN["codes"]["new"]}, "window_days": [-10, 0]}
    study = followed.histories_study("fhir", arm=followed.ARM | {"given": given})
    found = read_patients(tmp_path, study.data, "site north")
    assert [row.extras["drug"] for row in found.rows if row.patient == "9"] == drug


def test_drugs_that_are_named_by_a_reference_are_no_arm(tmp_path: Path) -> None:
    item = {
        "resourceType": "MedicationRequest", "id": "x", "status": "active", "subject": {"reference": "Patient/9"},
        "medicationReference": {"reference": "Medication/1"}, "authoredOn": "2018-05-30",
    }  # fmt: skip
    histories.write_ndjson(tmp_path, PEOPLE)
    (tmp_path / "More.ndjson").write_text(json.dumps(item))
    with pytest.raises(DataError, match=r"site north: .*1 x a medication that refers to a Medication, and has no code"):
        read_patients(tmp_path, followed.histories_study("fhir").data, "site north")
    without = Study.model_validate(followed.survival_sections("fhir"))
    remarks = read_patients(tmp_path, without.data, "site north").remarks
    assert ("records", "1 x a medication that refers to a Medication, and has no code of its own") in {
        (item.file, item.reason) for item in remarks
    }


def test_a_drug_of_another_terminology_is_named(tmp_path: Path) -> None:
    own = ("http://own/drugs", *NEW[1:])
    people = [PatientHistory(one.ident, one.birth, one.sex, [*one.records]) for one in PEOPLE]
    for one in people:
        one.records = [Dated(it.kind, own, it.when) if it.code == NEW else it for it in one.records]
    histories.write_ndjson(tmp_path, people)
    said = "no record has a code of the arm new, and 30 have its code in another terminology"
    with pytest.raises(DataError, match=f"site north: its records are not what the study says: {said}"):
        read_patients(tmp_path, followed.histories_study("fhir").data, "site north")


def test_a_hospital_where_nobody_has_an_index_date_says_so(tmp_path: Path) -> None:
    history = followed.HISTORY | {"index": followed.HISTORY["index"] | {"earliest": "2018-12-31"}}
    with pytest.raises(DataError, match="none of its 31 patients is in the study: 31 x no index date"):
        read(tmp_path, "fhir", INDEX, history=history)


def test_who_died_before_the_index_date_is_in_the_quarantine_list(tmp_path: Path) -> None:
    people = [*PEOPLE, PatientHistory("9", "1950-05-05", "male", [INDEX, DRUG, SEEN], "2018-05-31")]
    histories.write_ndjson(tmp_path / "north", people)
    study = followed.histories_study("fhir")
    source = next(source for source in plan_sources(study, tmp_path) if source.name == "north")
    opened = open_site_data(study, source, tmp_path / "state")
    assert "patient 9,died before the index date" in (tmp_path / "state" / "quarantine.csv").read_text()
    assert opened.counts.quarantined == 1


def test_yes_or_no_by_death_too(tmp_path: Path) -> None:
    """Without survival, the label is whether it was seen in its window: here a heart attack, or death."""
    history = histories.HISTORY | {"label": histories.HISTORY["label"] | {"death": True}}
    people, _ = histories.ward("north", 30)
    index = Dated("visit", INPATIENT, "2019-06-01")
    cases = {"91": "2019-09-01", "92": "2019-06-01", "93": "2020-06-02", "94": "2019-05-31"}
    later = Dated("visit", OUTPATIENT, "2020-12-01")
    people += [PatientHistory(ident, "1950-05-05", "male", [index, later], died) for ident, died in cases.items()]
    histories.write_ndjson(tmp_path, people)
    found = read_patients(tmp_path, histories.histories_study("fhir", history=history).data, "site north")
    rows = {row.patient: row.fault or row.label for row in found.rows if row.patient in cases}
    assert rows == {"91": "1", "93": "0", "94": "died before the index date"}
    assert ("patients", "1 x died before the label's window") in {(item.file, item.reason) for item in found.remarks}
