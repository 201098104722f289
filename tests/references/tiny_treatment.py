"""A study of treatments small enough to train in a test: the made-up trial with known effects, in three hospitals."""

from pathlib import Path
from typing import Any

import yaml

from components.data.known_effects import KnownTrial, TrialPlan, draw_trial
from components.study import Study
from tests.references.tiny_table import write_table

PLAN = TrialPlan(patients=900, genes=5, seed=7)
SITES = ("east", "north", "south")
FEATURES: list[dict[str, Any]] = [
    {"name": "age", "unit": "years", "range": [18, 100]},
    {"name": "stage", "type": "categorical", "categories": ["I", "II", "III"]},
    {"name": "receptor", "type": "boolean"},
    *({"name": f"gene_{number:02d}", "range": [-8, 8]} for number in range(1, 6)),
]
ARM: dict[str, Any] = {"column": "drug", "levels": ["no", "yes"], "randomised": True, "propensity": 0.5}


def rows_of(trial: KnownTrial) -> list[dict[str, Any]]:
    """The trial's table, as rows by column."""
    return [dict(zip(trial.columns, row, strict=True)) for row in trial.rows]


def write_hospitals(folder: Path, rows: list[dict[str, Any]] | None = None) -> Path:
    """Write ``patients.csv`` into a folder for each site; the fourth hospital's patients are the first's."""
    found = rows_of(draw_trial(PLAN)) if rows is None else rows
    for site in SITES:
        own = [row for row in found if {"west": "east"}.get(row["hospital"], row["hospital"]) == site]
        write_table(folder / site / "patients.csv", own)
    return folder


def sections(**changes: Any) -> dict[str, Any]:
    """The study as plain data; `arm` and `treatment` are laid over the study's own, other sections replaced."""
    arm = {**ARM, **changes.pop("arm", {})}
    treatment = {"better": "well", "members": 10, **changes.pop("treatment", {})}
    return {
        "study": "drug",
        "task": {"classes": ["well", "relapse"], "treatment": treatment},
        "network": {"name": "LogisticRegression"},
        "data": {
            "source": "records",
            "table": "patients.csv",
            "columns": {"label": "outcome", "patient": "patient"},
            "records": {"features": FEATURES, "arm": arm},
            "splits": {"train": 0.6, "validation": 0.1, "test": 0.3},
        },
        "sites": [{"name": site, "path": site} for site in SITES],
        "rounds": {"max": 3, "convergence": None},
        "local": {"epochs": 1, "batch_size": 32, "optimizer": {"learning_rate": 0.3}},
        "evaluate": {"bins": 100},
    } | changes


def survival_changes(**survival: Any) -> dict[str, Any]:
    """What makes the study one of survival; `survival` is laid over its own task."""
    task = {"unit": "days", "horizons": [1460], "grid": {"end": 2920, "cells": 16}, "loss": "cox", **survival}
    data = sections()["data"] | {"columns": {"time": "days", "event": "died", "patient": "patient"}}
    return {
        "task": {"kind": "survival", "survival": task, "treatment": {"members": 10}},
        "data": data,
        "network": {"name": "Linear"},
        "local": {"epochs": 5, "optimizer": {"learning_rate": 0.5, "momentum": 0.8}},
    }


def x_learner(**changes: Any) -> dict[str, Any]:
    """Changes of a study, with an X-learner."""
    if "task" not in changes:
        return changes | {"treatment": {"learner": "x"}}
    task = changes["task"]
    return changes | {"task": task | {"treatment": task["treatment"] | {"learner": "x"}}}


def treatment_study(**changes: Any) -> Study:
    """The study as a record."""
    return Study.model_validate(sections(**changes))


def write_study(folder: Path, **changes: Any) -> Path:
    """Write the study as ``drug.yaml``."""
    path = folder / "drug.yaml"
    path.write_text(yaml.safe_dump(sections(**changes)), encoding="utf-8")
    return path
