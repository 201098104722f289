"""Hospitals whose made-up patients have dated records, written as a CSV, as FHIR R4 and as OMOP: the same patients.

Each patient has a visit in hospital in 2019, the index; before it cholesterol, blood pressure, perhaps diabetes and a
statin; after it, within a year, perhaps a heart attack. `Ward` has them as plain values, each format its own writer.
"""

import csv
import gzip
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from components.study import Study

SITES = {"east": 90, "north": 110, "west": 80}
WINDOW = [-365, 0]
FEATURES: list[dict[str, Any]] = [
    {"name": "age", "record": "age", "unit": "years", "range": [18, 110]},
    {"name": "sex", "record": "sex", "type": "categorical", "categories": ["female", "male"]},
    {
        "name": "chol", "record": "measurement", "code": "LOINC 2093-3", "also": ["OMOP 3027114"], "unit": "mg/dl",
        "range": [60, 700], "window_days": WINDOW, "indicator": True,
    },
    {
        "name": "systolic", "record": "measurement", "code": "LOINC 8480-6", "also": ["OMOP 3004249"],
        "unit": "mm[Hg]", "range": [60, 260], "window_days": WINDOW, "take": "mean",
    },
    {
        "name": "diabetes", "record": "condition", "code": "SNOMED 44054006", "also": ["OMOP 201826"],
        "type": "boolean", "take": "any",
    },
    {
        "name": "smoking", "record": "measurement", "code": "LOINC 72166-2", "also": ["OMOP 40766945"],
        "type": "categorical", "categories": ["never", "current"], "window_days": WINDOW,
        "meanings": {"never": ["LOINC LA18978-9", "OMOP 45879404"], "current": ["LOINC LA18976-3", "OMOP 45881517"]},
    },
    {
        "name": "visits", "record": "visit", "code": "ACTCODE AMB", "also": ["OMOP 9202"], "take": "count",
        "window_days": WINDOW, "range": [0, 100],
    },
    {
        "name": "statin", "record": "medication", "code": "RXNORM 83367", "also": ["OMOP 1545958"],
        "type": "boolean", "take": "any", "window_days": WINDOW,
    },
]  # fmt: skip
HISTORY: dict[str, Any] = {
    "index": {
        "record": "visit", "codes": ["ACTCODE IMP", "OMOP 9201"], "earliest": "2019-01-01", "latest": "2019-12-31",
    },
    "label": {"codes": ["SNOMED 22298006", "OMOP 4329847"], "window_days": [1, 365]},
    "until": "2021-06-30",
}  # fmt: skip
Cells = dict[str, Any]


@dataclass
class Dated:
    """A record of a patient: what it is in FHIR's terminology and in OMOP, when, and what was found."""

    kind: str
    code: tuple[str, str, int]
    when: str
    number: float | None = None
    unit: str = ""
    concept: tuple[str, str, int] | None = None
    end: str = ""


@dataclass
class PatientHistory:
    """A patient."""

    ident: str
    birth: str
    sex: str
    records: list[Dated] = field(default_factory=list)
    died: str = ""


LOINC, SNOMED, ACT, RX = (
    "http://loinc.org", "http://snomed.info/sct", "http://terminology.hl7.org/CodeSystem/v3-ActCode",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
)  # fmt: skip
CHOL, SYSTOLIC = (LOINC, "2093-3", 3027114), (LOINC, "8480-6", 3004249)
SMOKING, NEVER, CURRENT = (LOINC, "72166-2", 40766945), (LOINC, "LA18978-9", 45879404), (LOINC, "LA18976-3", 45881517)
DIABETES, INFARCT = (SNOMED, "44054006", 201826), (SNOMED, "22298006", 4329847)
INPATIENT, OUTPATIENT, STATIN = (ACT, "IMP", 9201), (ACT, "AMB", 9202), (RX, "83367", 1545958)


def ward(site: str, count: int, *, seed: int = 5) -> tuple[list[PatientHistory], list[Cells]]:
    """Make a site's patients, and the row that each should become, in the order of their identifiers."""
    random = np.random.default_rng([seed, *site.encode()])
    people, rows = [], []
    for number in range(count):
        ident = f"{len(site)}{1000 + number}"
        index = date(2019, 1, 1) + timedelta(days=int(random.integers(365)))
        birth = date(1930, 1, 1) + timedelta(days=int(random.integers(20000)))
        age = index.year - birth.year - ((index.month, index.day) < (birth.month, birth.day))
        sex = str(random.choice(["female", "male"]))
        chol = [round(float(np.clip(random.normal(220, 40), 70, 600)), 1) for _ in range(int(random.integers(3)))]
        pressures = [float(value) for value in random.integers(100, 180, 2)]
        diabetic, statin, smoker = (bool(random.random() < part) for part in (0.3, 0.4, 0.3))
        visits = int(random.integers(4))
        risk = (age - 62) / 10 + diabetic + smoker + ((chol[-1] if chol else 220) - 220) / 50
        ill = bool(random.random() < 1 / (1 + math.exp(-risk)))
        before = [(index - timedelta(days=days)).isoformat() for days in (1, 30, 90, 200, 364)]
        records = [Dated("visit", INPATIENT, index.isoformat())]
        records += [Dated("visit", OUTPATIENT, before[place]) for place in range(visits)]
        lipids = list(zip(before[1::-1], chol, strict=False))  # the older one first
        records += [Dated("measurement", CHOL, day, value, "mg/dL") for day, value in lipids[::-1]]
        records += [
            Dated("measurement", SYSTOLIC, before[place], value, "mm[Hg]") for place, value in enumerate(pressures)
        ]
        records += [Dated("measurement", SMOKING, before[2], concept=CURRENT if smoker else NEVER)]
        records += [Dated("condition", DIABETES, "2010-03-04")] * diabetic + [
            Dated("medication", STATIN, before[3])
        ] * statin
        records += [Dated("condition", INFARCT, (index + timedelta(days=100)).isoformat())] * ill
        records += [Dated("measurement", CHOL, (index + timedelta(days=400)).isoformat(), 300.0, "mg/dL")]
        people.append(PatientHistory(ident, birth.isoformat(), sex, records))
        last = chol[-1] if chol else ""
        rows.append({
            "patient": ident, "age": age, "sex": sex, "chol": last, "systolic": math.fsum(pressures) / 2,
            "diabetes": "yes" if diabetic else "no", "smoking": "current" if smoker else "never", "visits": visits,
            "statin": "yes" if statin else "no", "outcome": int(ill),
        })  # fmt: skip
    return people, rows


def write_csv(folder: Path, rows: list[Cells]) -> Path:
    """Write rows as ``patients.csv``."""
    return _write_csv(folder / "patients.csv", rows)


def _write_csv(path: Path, rows: list[Cells]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _concept(code: tuple[str, str, int]) -> Cells:
    return {"coding": [{"system": code[0], "code": code[1]}]}


def resources(person: PatientHistory, reference: str = "") -> list[Cells]:
    """Return a patient's FHIR R4 resources, the Patient first."""
    subject = {"reference": reference or f"Patient/{person.ident}"}
    made: list[Cells] = [
        {"resourceType": "Patient", "id": person.ident, "birthDate": person.birth, "gender": person.sex}
        | ({"deceasedDateTime": person.died} if person.died else {})
    ]
    for number, record in enumerate(person.records):
        base: Cells = {"id": f"r{person.ident}-{number}", "subject": subject}
        if record.kind == "condition":
            base |= {"resourceType": "Condition", "code": _concept(record.code), "onsetDateTime": record.when}
        elif record.kind == "visit":
            coding = {"system": record.code[0], "code": record.code[1]}
            base |= {
                "resourceType": "Encounter",
                "status": "finished",
                "class": coding,
                "period": {"start": record.when} | ({"end": record.end} if record.end else {}),
            }
        elif record.kind == "procedure":
            base |= {
                "resourceType": "Procedure", "status": "completed", "code": _concept(record.code),
                "performedPeriod": {"start": f"{record.when}T10:00:00Z"},
            }  # fmt: skip
        elif record.kind == "medication":
            base |= {
                "resourceType": "MedicationRequest", "status": "active", "intent": "order",
                "medicationCodeableConcept": _concept(record.code), "authoredOn": record.when,
            }  # fmt: skip
        else:
            value: Cells = {"valueCodeableConcept": _concept(record.concept)} if record.concept else {}
            if record.number is not None:
                quantity = {"value": record.number, "unit": record.unit, "system": "http://unitsofmeasure.org"}
                value = {"valueQuantity": quantity | {"code": record.unit}}
            base |= {
                "resourceType": "Observation",
                "status": "final",
                "effectiveDateTime": f"{record.when}T08:00:00+01:00",
            }
            if record.code == SYSTOLIC:  # as FHIR has it: a part of a panel of blood pressure
                panel = {"coding": [{"system": LOINC, "code": "85354-9"}]}
                base |= {"code": panel, "component": [{"code": _concept(record.code)} | value]}
            else:
                base |= {"code": _concept(record.code)} | value
        made.append(base)
    return made


def write_bundles(folder: Path, people: Iterable[PatientHistory]) -> Path:
    """Write a transaction for each patient, whose resources refer to each other by ``urn:uuid:``."""
    folder.mkdir(parents=True, exist_ok=True)
    for person in people:
        url = f"urn:uuid:00000000-0000-0000-0000-{int(person.ident):012d}"
        entries = [
            {"fullUrl": url if item["resourceType"] == "Patient" else f"urn:uuid:{item['id']}", "resource": item,
             "request": {"method": "POST", "url": item["resourceType"]}}
            for item in resources(person, url)
        ]  # fmt: skip
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries[::-1]}
        (folder / f"{person.ident}.json").write_text(json.dumps(bundle), encoding="utf-8")
    return folder


def write_ndjson(folder: Path, people: Iterable[PatientHistory], *, packed: bool = False) -> Path:
    """Write a bulk export: a file for each type of resource."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for person in people:
        for item in resources(person):
            lines.setdefault(item["resourceType"], []).append(json.dumps(item))
    for kind, found in lines.items():
        text = ("\n".join(found) + "\n").encode()
        name = f"{kind}.ndjson.gz" if packed else f"{kind}.ndjson"
        (folder / name).write_bytes(gzip.compress(text) if packed else text)
    return folder


TABLES = {
    "condition": ("condition_occurrence", "condition_occurrence_id", "condition_concept_id", "condition_start_date"),
    "visit": ("visit_occurrence", "visit_occurrence_id", "visit_concept_id", "visit_start_date"),
    "medication": ("drug_exposure", "drug_exposure_id", "drug_concept_id", "drug_exposure_start_date"),
    "measurement": ("measurement", "measurement_id", "measurement_concept_id", "measurement_date"),
    "procedure": ("procedure_occurrence", "procedure_occurrence_id", "procedure_concept_id", "procedure_date"),
}


def omop_tables(people: Iterable[PatientHistory]) -> dict[str, list[Cells]]:
    """Return patients as rows of OMOP's tables."""
    made: dict[str, list[Cells]] = {"person": []}
    for person in people:
        born = date.fromisoformat(person.birth)
        made["person"].append({
            "person_id": person.ident, "gender_concept_id": {"male": 8507, "female": 8532}[person.sex],
            "year_of_birth": born.year, "month_of_birth": born.month, "day_of_birth": born.day,
        })  # fmt: skip
        for number, record in enumerate(person.records):
            name, ident, concept, day = TABLES[record.kind]
            row: Cells = {ident: f"{person.ident}{number:03d}", "person_id": person.ident, concept: record.code[2]}
            row[day] = record.when
            if record.kind == "visit":
                row["visit_end_date"] = record.end
            if record.kind == "measurement":
                row |= {
                    "measurement_datetime": f"{record.when} 08:00:00", "operator_concept_id": "",
                    "value_as_number": "" if record.number is None else record.number,
                    "value_as_concept_id": record.concept[2] if record.concept else "", "unit_concept_id": 0,
                    "unit_source_value": record.unit,
                }  # fmt: skip
            made.setdefault(name, []).append(row)
        if person.died:
            made.setdefault("death", []).append({"person_id": person.ident, "death_date": person.died})
    return made


def write_omop(folder: Path, people: Iterable[PatientHistory], *, parquet: bool = False) -> Path:
    """Write patients as OMOP's tables, CSV or Parquet."""
    for name, rows in omop_tables(people).items():
        if parquet:
            import pyarrow
            import pyarrow.parquet

            folder.mkdir(parents=True, exist_ok=True)
            text = [{key: str(cell) for key, cell in row.items()} for row in rows]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(text), folder / f"{name}.parquet")
        else:
            _write_csv(folder / f"{name}.csv", rows)
    return folder


def sections(kind: str = "any", sites: Iterable[str] = SITES, **changes: Any) -> dict[str, Any]:
    """The study as plain data; `changes` are laid over ``data.records``."""
    records: dict[str, Any] = {"features": FEATURES, "format": kind, "history": HISTORY} | changes
    if kind == "table":
        del records["history"]
    return {
        "study": "histories",
        "task": {"classes": ["well", "infarct"]},
        "network": {"name": "LogisticRegression"},
        "data": {
            "source": "records", "table": "patients.csv", "columns": {"label": "outcome", "patient": "patient"},
            "records": records, "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "sites": [{"name": site, "path": site} for site in sites],
        "rounds": {"max": 2, "convergence": None},
        "local": {"epochs": 1, "batch_size": 16, "optimizer": {"learning_rate": 0.2}},
        "evaluate": {"bins": 100},
    }  # fmt: skip


def histories_study(kind: str = "any", **changes: Any) -> Study:
    """The study as a record."""
    return Study.model_validate(sections(kind, **changes))


def write_study(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write a study as ``histories.yaml``."""
    path = folder / "histories.yaml"
    path.write_text(json.dumps(dict(content), indent=1), encoding="utf-8")  # JSON is YAML
    return path
