"""A tabular study at real hospitals on loopback: the weights of the simulation, and every site left out once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.journal import Entry, read
from components.sums_file import read_sums
from tests.references.open_folder import open_folder
from tests.references.tiny_table import SITES, write_hospitals, write_study

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def wardround(*arguments: str, home: Path) -> str:
    environment = {**os.environ, "WARDROUND_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def events(home: Path, event: str) -> list[Entry]:
    return [entry for entry in read(home / "trainings" / "table" / "journal.jsonl") if entry.event == event]


TREES = {  # of a tree's root, in the second round: sums with disclosure control
    "network": {"name": "BoostedTrees", "arguments": {"trees": 2, "depth": 2, "bins": 12}},
    "strategy": {"name": "HistogramBoosting"},
    "local": {"batch_size": 32, "optimizer": {"learning_rate": 0.05}},
}


@pytest.mark.parametrize("changes", [{}, TREES], ids=["logistic regression", "trees"])
def test_hospitals_tables_give_the_weights_of_the_simulation_and_each_is_left_out_once(changes: dict) -> None:
    with open_folder() as folder:
        write_hospitals(folder)
        evaluate = {"bins": 100, "external": "leave_one_site_out", "subgroups": [{"feature": "sex"}]}
        study = write_study(folder, rounds={"max": 2}, evaluate=evaluate, **changes)
        home, simulated = folder / "h", folder / "s"
        wardround("simulate", str(study), home=simulated)
        wardround("up", str(study), home=home)
        try:
            wardround("train", str(study), home=home)
        finally:
            wardround("down", home=home)
        found = [
            [entry.data["state"]["weights"] for entry in events(place, "aggregated")] for place in (home, simulated)
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 2
        left_out = []
        for place in (home, simulated):
            entry = events(place, "externally_tested")[0]
            file = place / "trainings" / "table" / entry.data["training"] / "external.json"
            left_out.append(read_sums(file, entry.data["evaluation"])["left_out"])
        assert {site: sums.count for site, sums in left_out[0].items()} == SITES
        assert left_out[0] == left_out[1]
