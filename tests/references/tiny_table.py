"""A tabular study small enough to train in a test: three hospitals of made-up patients, with a known risk."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.study import Study

FEATURES: list[dict[str, Any]] = [
    {"name": "age", "unit": "years", "range": [18, 100]},
    {"name": "chol", "unit": "mg/dl", "range": [60, 700], "missing": [0], "indicator": True},
    {"name": "sex", "type": "boolean"},
    {"name": "pain", "type": "categorical", "categories": ["none", "typical", "atypical"]},
]
SITES = {"east": 120, "north": 200, "west": 80}
Patient = dict[str, Any]


def patients(site: str, count: int, *, seed: int = 3) -> list[Patient]:
    """Make a site's patients: risk rises with age, cholesterol and typical pain; a tenth has no cholesterol."""
    random = np.random.default_rng([seed, *site.encode()])
    made = []
    for _ in range(count):
        age, chol, sex = random.uniform(30, 85), random.normal(230, 40), random.integers(2)
        pain = str(random.choice(["none", "typical", "atypical"]))
        risk = (age - 58) / 10 + (chol - 230) / 60 + 1.5 * (pain == "typical") - 0.5
        ill = random.random() < 1 / (1 + math.exp(-risk))
        known = 0 if random.random() < 0.1 else round(float(np.clip(chol, 70, 600)), 1)
        made.append(
            {"age": round(age, 1), "chol": known, "sex": int(sex), "pain": pain, "outcome": "ill" if ill else "well"}
        )
    return made


def write_table(path: Path, rows: list[Patient]) -> Path:
    """Write patients as a CSV with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_hospitals(folder: Path, change: Callable[[str, list[Patient]], list[Patient]] | None = None) -> Path:
    """Write ``patients.csv`` into a folder for each site; `change` may spoil a site's patients."""
    for site, count in SITES.items():
        rows = patients(site, count)
        write_table(folder / site / "patients.csv", change(site, rows) if change else rows)
    return folder


def sections(**changes: Any) -> dict[str, Any]:
    """The study as plain data; a section given here is laid over the study's own, key by key."""
    found: dict[str, Any] = {
        "study": "table",
        "task": {"classes": ["well", "ill"]},
        "network": {"name": "LogisticRegression"},
        "data": {
            "source": "records",
            "table": "patients.csv",
            "columns": {"label": "outcome", "patient": ""},
            "records": {"features": FEATURES},
            "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "sites": [{"name": site, "path": site} for site in SITES],
        "rounds": {"max": 3, "convergence": None},
        "local": {"epochs": 1, "batch_size": 16, "optimizer": {"learning_rate": 0.2}},
        "evaluate": {"bins": 100},
    }
    for name, value in changes.items():
        before = found.get(name)
        found[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return found


def table_study(**changes: Any) -> Study:
    """The study as a record."""
    return Study.model_validate(sections(**changes))


def records_study(**records: Any) -> Study:
    """The study with other words in ``data.records``."""
    data = sections()["data"]
    return table_study(data={**data, "records": {**data["records"], **records}})


def write_study(folder: Path, **changes: Any) -> Path:
    """Write the study as ``table.yaml``."""
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump(sections(**changes)), encoding="utf-8")
    return path
