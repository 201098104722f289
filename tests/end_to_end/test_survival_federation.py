"""A survival study at real hospitals on loopback: the weights of the simulation, and a prediction by command."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.journal import read
from tests.references.open_folder import open_folder
from tests.references.tiny_survival import patients, write_hospitals, write_study
from tests.references.tiny_table import write_table

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def wardround(*arguments: str, home: Path) -> str:
    environment = {**os.environ, "WARDROUND_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hospitals_give_the_weights_of_the_simulation_and_the_model_predicts() -> None:
    with open_folder() as folder:
        write_hospitals(folder)
        local, rounds = {"method": "newton", "epochs": 1}, {"max": 3}
        study, home, simulated = write_study(folder, local=local, rounds=rounds), folder / "h", folder / "s"
        wardround("simulate", str(study), home=simulated)
        wardround("up", str(study), home=home)
        try:
            said = wardround("train", str(study), home=home)
        finally:
            wardround("down", home=home)
        assert "concordance" in said
        found = [
            [
                entry.data["state"]["weights"]
                for entry in read(place / "trainings" / "survival" / "journal.jsonl")
                if entry.event == "aggregated"
            ]
            for place in (home, simulated)
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 3
        new, scores = write_table(folder / "new.csv", patients("new", 4)), folder / "scores.csv"
        wardround("predict", "models:/survival@champion", str(new), "--output", str(scores), home=simulated)
        with scores.open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 4
        assert {"score_risk", "score_survival_5", "score_survival_10", "decision"} < rows[0].keys()
        assert all(0 <= float(row["score_survival_10"]) <= float(row["score_survival_5"]) <= 1 for row in rows)
