"""Hospitals whose made-up patients are followed until a heart attack: the time to it, and which of two drugs they had.

Written in the formats of `tests.references.histories`. Each patient has a stay in hospital in 2018, the index; within
ten days before it one of two drugs began; after it come visits, perhaps a heart attack, perhaps death.
"""

from datetime import date, timedelta
from typing import Any

import numpy as np

from components.study import Study
from tests.references import histories
from tests.references.histories import RX, Cells, Dated, PatientHistory

SITES = histories.SITES
OLD, NEW = (RX, "1191", 1112807), (RX, "32968", 1322184)
FEATURES = [item for item in histories.FEATURES if item["name"] in ("age", "sex", "chol", "diabetes")]
LABEL: dict[str, Any] = {
    "codes": ["SNOMED 22298006", "OMOP 4329847"], "window_days": [1, 730], "follow_up": "record",
}  # fmt: skip
HISTORY: dict[str, Any] = {
    "index": histories.HISTORY["index"] | {"earliest": "2018-01-01", "latest": "2018-12-31"}, "label": LABEL,
    "until": "2021-12-31",
}  # fmt: skip
GIVEN: dict[str, Any] = {
    "codes": {"old": ["RXNORM 1191", "OMOP 1112807"], "new": ["RXNORM 32968", "OMOP 1322184"]}, "window_days": [-10, 0],
}  # fmt: skip
ARM: dict[str, Any] = {"column": "drug", "levels": ["old", "new"], "randomised": False, "given": GIVEN}


def ward(site: str, count: int, *, seed: int = 7) -> tuple[list[PatientHistory], list[Cells]]:
    """Make a site's patients, and the row that each should become, in the order of their identifiers."""
    random = np.random.default_rng([seed, *site.encode()])
    people, rows = [], []
    for number in range(count):
        ident = f"{len(site)}{1000 + number}"
        index = date(2018, 1, 1) + timedelta(days=int(random.integers(365)))
        birth = date(1930, 1, 1) + timedelta(days=int(random.integers(18000)))
        age = index.year - birth.year - ((index.month, index.day) < (birth.month, birth.day))
        sex, drug = str(random.choice(["female", "male"])), str(random.choice(["old", "new"]))
        chol, diabetic = round(float(np.clip(random.normal(220, 40), 70, 600)), 1), bool(random.random() < 0.3)
        rate = np.exp((age - 62) / 20 + diabetic - 0.6 * (drug == "new")) / 800
        infarct, death = (1 + int(random.exponential(1 / part)) for part in (rate, rate / 2))
        last = int(random.integers(20, 1000))

        def on(days: int, start: date = index) -> str:
            return (start + timedelta(days=days)).isoformat()

        records = [Dated("visit", histories.INPATIENT, on(0), end=on(9))]
        records += [Dated("medication", NEW if drug == "new" else OLD, on(-int(random.integers(11))))]
        records += [Dated("medication", OLD if drug == "new" else NEW, on(-400))]  # too early to be the arm
        records += [Dated("measurement", histories.CHOL, on(-30), chol, "mg/dL")]
        records += [Dated("condition", histories.DIABETES, "2010-03-04")] * diabetic
        records += [Dated("visit", histories.OUTPATIENT, on(last), end=on(last))]
        records += [Dated("condition", histories.INFARCT, on(infarct))] * (infarct <= min(last, death))
        died = death if death <= last + 30 else None
        end = min(last if died is None else died, 730)
        people.append(PatientHistory(ident, birth.isoformat(), sex, records, on(died) if died else ""))
        seen = infarct <= min(last, death, end)
        rows.append({
            "patient": ident, "age": age, "sex": sex, "chol": chol, "diabetes": "yes" if diabetic else "no",
            "drug": drug, "days": infarct if seen else end, "infarct": int(seen),
        })  # fmt: skip
    return people, rows


def sections(kind: str = "any", **changes: Any) -> dict[str, Any]:
    """The study as plain data: which drug keeps whom free of a heart attack for longer."""
    found = histories.sections(kind, **{"features": FEATURES, "history": HISTORY, "arm": ARM} | changes)
    found["task"] = {
        "kind": "survival", "treatment": {"members": 10},
        "survival": {"unit": "days", "horizons": [730], "grid": {"end": 730, "cells": 10}},
    }  # fmt: skip
    found["network"] = {"name": "Linear"}
    found["data"]["columns"] = {"time": "days", "event": "infarct", "patient": "patient"}
    return found


def survival_sections(kind: str = "any", **changes: Any) -> dict[str, Any]:
    """The study without treatments: until when."""
    found = sections(kind, **changes)
    del found["task"]["treatment"], found["data"]["records"]["arm"]
    return found


def histories_study(kind: str = "any", **changes: Any) -> Study:
    """The study as a record."""
    return Study.model_validate(sections(kind, **changes))
