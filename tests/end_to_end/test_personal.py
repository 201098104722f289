"""Hospitals that agree on what matters of a patient and not on what follows from it: each keeps its output layers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.exchange.store import FolderStore
from components.journal import read
from components.ledger import trainings
from flows import api
from flows.prediction import predict_files
from tests.end_to_end.both_ways import train_both_ways, wardround
from tests.references.open_folder import open_folder
from tests.references.tiny_table import SITES, Patient, patients, write_hospitals, write_study, write_table

pytestmark = pytest.mark.timeout(900)
OTHER = {"ill": "well", "well": "ill"}
CHANGES: dict[str, Any] = {
    "network": {"name": "MLP", "arguments": {"widths": [8]}},
    "rounds": {"max": 4},
    "local": {"epochs": 4, "batch_size": 16, "optimizer": {"learning_rate": 0.1}},
}


def opposite_at_west(site: str, rows: list[Patient]) -> list[Patient]:
    """At one hospital those are ill who are well elsewhere."""
    return [row | {"outcome": OTHER[row["outcome"]]} for row in rows] if site == "west" else rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("personal"), opposite_at_west)


@pytest.fixture(scope="module")
def aurocs(folder: Path) -> dict[str, dict[str, float]]:
    """By strategy, the AUROC at each hospital's test patients."""
    return {strategy: trained(folder, strategy) for strategy in ("FedAvg", "FedPer")}


def trained(folder: Path, strategy: str) -> dict[str, float]:
    study = write_study(folder, strategy={"name": strategy}, **CHANGES)
    outcome = api.simulate(study, home=folder / strategy, dispatcher="in-process")
    return {site: outcome.tests[site]["global"]["auroc"].value or 0.0 for site in SITES}


def test_where_hospitals_contradict_each_other_output_layers_of_their_own_serve_each(
    aurocs: dict[str, dict[str, float]],
) -> None:
    assert aurocs["FedAvg"]["west"] < 0.4
    assert min(aurocs["FedPer"].values()) > 0.7


@pytest.mark.usefixtures("aurocs")
def test_a_hospital_scores_with_its_own_output_layers_and_nobody_without(folder: Path) -> None:
    rows = [row | {"outcome": ""} for row in patients("north", 40, seed=9)]
    file, home = write_table(folder / "new.csv", rows), folder / "FedPer"
    scores = {}
    for site in SITES:
        scored = predict_files("models:/table@champion", [file], home=home, site=site)
        assert scored.warning == ""
        scores[site] = [item.scores["ill"] for item in scored.files]
    assert correlation(scores["north"], scores["east"]) > 0.5
    assert correlation(scores["north"], scores["west"]) < -0.5
    nobodys = predict_files("models:/table@champion", [file], home=home)
    assert "each site keeps its own output layers" in nobodys.warning
    assert "its scores mean nothing" in nobodys.warning


@pytest.mark.long
def test_output_layers_never_leave_a_hospital_and_serve_it_from_its_own_folder() -> None:
    with open_folder() as place:
        write_hospitals(place, opposite_at_west)
        study = write_study(place, strategy={"name": "FedPer"}, **CHANGES | {"rounds": {"max": 2}})
        found = train_both_ways(study, "table")
        assert found.weights(found.home) == found.weights(found.simulated)
        (ledger,) = trainings(read(found.home / "trainings" / "table" / "journal.jsonl")).values()
        store = FolderStore(found.home / "federation" / "stores" / "table")
        last = store.get(ledger.rounds[2].require_state().weights)
        assert set(ledger.initial.output) == {"network.3.weight", "network.3.bias"}
        first = store.get(ledger.initial.weights_digest)
        assert all(last[name].equal(first[name]) for name in ledger.initial.output)
        assert not last["network.0.weight"].equal(first["network.0.weight"])
        file = write_table(place / "new.csv", [row | {"outcome": ""} for row in patients("north", 20, seed=9)])
        wardround("up", str(study), home=found.home)
        try:
            for site in SITES:
                own = found.home / "federation" / "hospitals" / site
                expected = scored(file, found.simulated, "--site", site)
                assert scored(file, found.home, "--site", site) == expected
                assert scored(file, found.home, "--hospital", str(own)) == expected
        finally:
            wardround("down", home=found.home)


def scored(file: Path, home: Path, *options: str) -> list[str]:
    """Return the lines of scores, but for the version's name."""
    output = home / "scores.csv"
    wardround("predict", "models:/table@champion", str(file), "--output", str(output), *options, home=home)
    return [line.rpartition(",")[0] for line in output.read_text().splitlines()]


def correlation(first: list[float], second: list[float]) -> float:
    return float(np.corrcoef(first, second)[0, 1])
