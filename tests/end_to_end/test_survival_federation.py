"""A survival study at real hospitals on loopback: the weights of the simulation, and a prediction by command."""

import csv

import pytest

from tests.end_to_end.both_ways import train_both_ways, wardround
from tests.references.open_folder import open_folder
from tests.references.tiny_survival import patients, write_hospitals, write_study
from tests.references.tiny_table import write_table

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_hospitals_give_the_weights_of_the_simulation_and_the_model_predicts() -> None:
    with open_folder() as folder:
        write_hospitals(folder)
        study = write_study(folder, local={"method": "newton", "epochs": 1}, rounds={"max": 3})
        found = train_both_ways(study, "survival")
        assert "concordance" in found.said
        assert found.weights(found.home) == found.weights(found.simulated)
        assert len(found.weights(found.home)) == 3
        new, scores = write_table(folder / "new.csv", patients("new", 4)), folder / "scores.csv"
        wardround("predict", "models:/survival@champion", str(new), "--output", str(scores), home=found.simulated)
        with scores.open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 4
        assert {"score_risk", "score_survival_5", "score_survival_10", "decision"} < rows[0].keys()
        assert all(0 <= float(row["score_survival_10"]) <= float(row["score_survival_5"]) <= 1 for row in rows)
