"""A survival study small enough to train in a test: three hospitals of made-up patients, with known hazards."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.study import Study
from tests.references.tiny_table import SITES, Patient, write_table

FEATURES: list[dict[str, Any]] = [
    {"name": "age", "unit": "years", "range": [18, 100]},
    {"name": "marker", "unit": "mg/dl", "range": [-10, 10], "missing": ["?"]},
    {"name": "stage", "type": "categorical", "categories": ["I", "II", "III"]},
]
TRUE = {"age": 0.06, "marker": 0.5, "III": 1.2}  # log hazard ratios: per year, per mg/dl, of stage III
HAZARD = {"east": 0.08, "north": 0.05, "west": 0.12}  # of each site's baseline, in a year


def patients(site: str, count: int, *, seed: int = 5, whole: bool = False) -> list[Patient]:
    """Make a site's patients: exponential times at the site's own baseline, censored at 1 to 12 years.

    `whole` rounds times to whole years, so that many are tied.
    """
    random = np.random.default_rng([seed, *site.encode()])
    made = []
    for _ in range(count):
        age, marker = random.uniform(30, 85), random.normal()
        stage = str(random.choice(["I", "II", "III"]))
        score = TRUE["age"] * (age - 58) + TRUE["marker"] * marker + TRUE["III"] * (stage == "III")
        died, ended = random.exponential(1 / (HAZARD.get(site, 0.08) * math.exp(score))), random.uniform(1, 12)
        time = min(died, ended)
        made.append({
            "age": round(age, 1), "marker": round(marker, 3), "stage": stage,
            "years": float(math.ceil(time)) if whole else round(time, 4), "died": "yes" if died <= ended else "no",
        })  # fmt: skip
    return made


def write_hospitals(
    folder: Path, change: Callable[[str, list[Patient]], list[Patient]] | None = None, *, whole: bool = False
) -> Path:
    """Write ``patients.csv`` into a folder for each site; `change` may spoil a site's patients."""
    for site, count in SITES.items():
        rows = patients(site, count, whole=whole)
        write_table(folder / site / "patients.csv", change(site, rows) if change else rows)
    return folder


def sections(**changes: Any) -> dict[str, Any]:
    """The study as plain data; a section given here is laid over the study's own, key by key."""
    found: dict[str, Any] = {
        "study": "survival",
        "task": {"kind": "survival", "survival": {
            "unit": "years", "horizons": [5, 10], "grid": {"end": 10, "cells": 20}, "range": [0, 20]}},
        "network": {"name": "Linear"},
        "data": {
            "source": "records",
            "table": "patients.csv",
            "columns": {"time": "years", "event": "died", "patient": ""},
            "records": {"features": FEATURES},
            "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "sites": [{"name": site, "path": site} for site in SITES],
        "rounds": {"max": 3, "convergence": None},
        "local": {"epochs": 1, "optimizer": {"learning_rate": 0.5}},
    }  # fmt: skip
    for name, value in changes.items():
        found[name] = _laid_over(found.get(name), value)
    return found


def survival_study(**changes: Any) -> Study:
    """The study as a record."""
    return Study.model_validate(sections(**changes))


def task(**changes: Any) -> dict[str, Any]:
    """The study's task with other words in ``task.survival``."""
    return {"survival": changes}


def write_study(folder: Path, **changes: Any) -> Path:
    """Write the study as ``survival.yaml``."""
    path = folder / "survival.yaml"
    path.write_text(yaml.safe_dump(sections(**changes)), encoding="utf-8")
    return path


def _laid_over(before: Any, value: Any) -> Any:
    """Lay a section over another."""
    if not isinstance(before, dict) or not isinstance(value, dict):
        return value
    return {**before, **{key: _laid_over(before.get(key), item) for key, item in value.items()}}
