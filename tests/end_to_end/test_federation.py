"""A real federation on loopback: all its servers, the gateway with TLS, three hospital processes; and a simulation."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.journal import Entry, read
from components.ledger import trainings
from flows import local_federation, local_record
from tests.end_to_end.records import PrefectRecords, serve_prefect
from tests.references.open_folder import open_folder
from tests.references.tiny_study import STUDY, write_films, write_study

ROOT = Path(__file__).resolve().parents[2]
SITES = ("site-1", "site-2", "site-3")
ROUNDS = 2
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Federation:
    """A federation that has trained once, its home, and the home of a simulation of the same study."""

    study: Path
    home: Path
    simulated: Path

    def events(self, home: Path, event: str) -> list[Entry]:
        return [entry for entry in read(home / "trainings" / STUDY / "journal.jsonl") if entry.event == event]

    def hospital(self, site: str) -> Path:
        return self.home / "federation" / "hospitals" / site


def wardround(*arguments: str, home: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WARDROUND_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], env=environment, capture_output=True, text=True, timeout=400
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr + logs(home)
    return done


def logs(home: Path) -> str:
    return "".join(f"\n== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(home.rglob("*.log")))


@pytest.fixture(scope="module")
def federation() -> Iterator[Federation]:
    """With PostgreSQL where it is installed, as `wardround up` takes it by itself."""
    with open_folder() as folder:
        yield from _trained(folder)


def _trained(folder: Path) -> Iterator[Federation]:
    write_films(folder)
    study = write_study(folder, rounds={"max": ROUNDS})
    home, simulated = folder / "home", folder / "simulated"
    wardround("simulate", str(study), home=simulated)
    wardround("up", str(study), home=home)
    try:
        wardround("train", str(study), home=home)
        yield Federation(study, home, simulated)
    finally:
        wardround("down", home=home)
    assert local_federation.supervisor(home) is None


def weights(federation: Federation, home: Path) -> list[Any]:
    return [entry.data["state"]["weights"] for entry in federation.events(home, "aggregated")]


def model_of(version: ModelVersion) -> str:
    return str(version.source).removeprefix("models:/")


def test_the_weights_are_those_of_the_simulation_bit_for_bit(federation: Federation) -> None:
    found = weights(federation, federation.home)
    assert len(found) == ROUNDS
    assert found == weights(federation, federation.simulated)


def test_versions_and_their_metrics_are_those_of_the_simulation(federation: Federation) -> None:
    told = []
    served = local_record.addresses(federation.home)
    assert served is not None
    for uri in (served.mlflow, f"sqlite:///{federation.simulated / 'mlflow.db'}"):
        client = MlflowClient(uri, uri)
        versions = sorted(client.search_model_versions(f"name='{STUDY}'"), key=lambda version: int(version.version))
        told.append([
            (version.tags["wardround.round"], version.tags["wardround.took_part"],
             {metric.key: metric.value for metric in client.get_logged_model(model_of(version)).metrics})
            for version in versions
        ])  # fmt: skip
    assert len(told[0]) == ROUNDS
    assert told[0] == told[1]


def test_every_order_and_answer_is_in_the_hospitals_own_journal(federation: Federation) -> None:
    for site in SITES:
        entries = list(read(federation.hospital(site) / "journal.jsonl"))
        delivered = [(e.data["round"], e.data["kind"]) for e in entries if e.event == "answer_delivered"]
        assert [pair for pair in delivered if pair[1] != "test"] == [
            (number, kind) for number in range(1, ROUNDS + 1) for kind in ("train", "validation")
        ]
        assert [e.data["plan"]["round"] for e in entries if e.event == "plan_accepted"] == [1, 2]


def test_nothing_is_left_behind_the_gateway_or_on_its_way(federation: Federation) -> None:
    exchange = federation.home / "federation" / "exchange"
    assert [path for path in exchange.rglob("*") if path.is_file()] == []
    for site in SITES:
        assert list((federation.hospital(site) / "outgoing").iterdir()) == []
        kept = list((federation.hospital(site) / "exchange" / STUDY / "objects").glob("*.safetensors"))
        assert 1 <= len(kept) <= 4


def test_prefect_shows_a_pool_and_the_runs_of_each_hospital(federation: Federation) -> None:
    with serve_prefect(federation.home) as prefect:
        assert isinstance(prefect, PrefectRecords)
        pools = {pool["name"]: pool["type"] for pool in prefect.find("work_pools")}
        names = {f"train at {site}, round {number}" for site in SITES for number in range(1, ROUNDS + 1)}
        end = time.monotonic() + 60  # the runs follow the work, which does not wait for them
        while True:
            runs = {run["name"]: run for run in prefect.find("flow_runs")}
            if time.monotonic() > end or {runs[name]["state"]["type"] for name in names & set(runs)} == {"COMPLETED"}:
                break
            time.sleep(0.2)
    assert {pools[site] for site in SITES} == {"hospital"}
    assert names <= set(runs)
    assert {runs[name]["state"]["type"] for name in names} == {"COMPLETED"}
    assert all(runs[name]["parent_task_run_id"] for name in names)
    rounds = {run["state"]["type"] for name, run in runs.items() if name.startswith("round ")}
    assert rounds == {"COMPLETED"}


def test_status_lists_the_hospitals_and_train_again_makes_new_versions(federation: Federation) -> None:
    said = wardround("status", home=federation.home).stdout
    assert all(site in said for site in SITES)
    wardround("train", str(federation.study), "--rounds", "1", home=federation.home)
    ledgers = trainings(read(federation.home / "trainings" / STUDY / "journal.jsonl"))
    assert len(ledgers) == 2
