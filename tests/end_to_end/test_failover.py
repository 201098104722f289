"""Two drivers of one study: the first is stopped, the second takes over, and the first, come back, steps aside."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.errors import LeaseLostError
from components.gateway.database import Database
from components.gateway.leases import Lease, Leases
from components.journal import read, verify
from flows import local_record
from flows.coordinator import read_coordinator
from flows.local_postgres import PostgresMissingError, find_postgres
from tests.end_to_end.loopback import Loopback, children
from tests.references.open_folder import open_folder
from tests.references.tiny_study import STUDY, write_films, write_study

ROUNDS = 8
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def ward(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    with open_folder() as folder:
        if request.param == "postgresql":
            try:
                find_postgres(folder / "home" / "federation" / "postgresql")
            except PostgresMissingError as error:
                pytest.skip(str(error))
        write_films(folder)
        study = write_study(folder, rounds={"max": ROUNDS}, local={"epochs": 40})
        ward = Loopback(study, STUDY, folder / "home")
        ward.run("up", str(study), "--database", request.param)
        try:
            yield ward
        finally:
            ward.run("down")


def weights(ward: Loopback) -> dict[int, str]:
    return {entry.data["round"]: entry.data["state"]["weights"] for entry in ward.events("aggregated")}


def lease(ward: Loopback, name: str) -> Lease | None:
    database = Database(read_coordinator(ward.home / "federation").database)
    try:
        return Leases(database).find(name)
    finally:
        database.close()


def test_a_second_driver_goes_on_to_the_same_bits_and_the_first_writes_nothing_more(ward: Loopback) -> None:
    simulated = Loopback(ward.study, STUDY, ward.home.parent / "simulated")
    simulated.run("simulate", str(ward.study))
    other = Loopback(ward.study, STUDY, ward.home.parent / "other")
    federation = ward.home / "federation"
    with ward.running("train", str(ward.study)) as first:
        ward.until(lambda: ward.events("aggregated", round=2), limit_s=600)
        group = [first.pid, *children(first.pid)]
        for process in group:
            os.kill(process, signal.SIGSTOP)
        shutil.copytree(ward.home / "trainings", other.home / "trainings")
        before = list(read(ward.home / "trainings" / STUDY / "journal.jsonl"))
        other.run("train", str(ward.study), "--folder", str(federation))
        for process in group:
            os.kill(process, signal.SIGCONT)
        said, _ = first.communicate(timeout=120)
    said = " ".join(said.split())
    assert first.returncode == LeaseLostError.exit_code, said
    assert f"stepped aside: {os.uname().nodename} (process " in said
    assert "(epoch 2) drives study tiny since this process (epoch 1)" in said

    assert list(read(ward.home / "trainings" / STUDY / "journal.jsonl")) == before
    verify(other.home / "trainings" / STUDY / "journal.jsonl")
    assert weights(other) == weights(simulated)
    served = local_record.addresses(ward.home)
    assert served is not None
    versions = MlflowClient(served.mlflow, served.mlflow).search_model_versions(f"name='{STUDY}'")
    assert sorted(int(version.tags["wardround.round"]) for version in versions) == list(range(1, ROUNDS + 1))
    assert list((federation / "exchange" / "objects").glob("*")) == []
    found = lease(ward, f"study {STUDY}")
    assert found is not None
    assert (found.epoch, found.given_back) == (2, True)


def test_of_two_that_carry_out_schedules_one_stands_by_and_takes_over(ward: Loopback, tmp_path: Path) -> None:
    federation, folder = ward.home / "federation", tmp_path / "federation"
    shutil.copytree(
        federation, folder, ignore=shutil.ignore_patterns("hospitals", "postgresql", "exchange", "*.log", "*.lock")
    )
    first = ward.until(lambda: lease(ward, "the schedules"))
    serve = ("coordinator", "serve", "--home", str(tmp_path), "--folder", str(folder))
    parts = json.loads((federation / "parts.json").read_text())
    own = next(mark["pid"] for mark in parts if mark["name"] == "coordinator")
    with ward.running(*serve) as second:
        os.kill(own, signal.SIGSTOP)
        taken = ward.until(lambda: (found := lease(ward, "the schedules")) and found.epoch > first.epoch and found)
        assert f"(process {second.pid})" in taken.holder
        os.kill(own, signal.SIGCONT)
        ward.until(lambda: "coordinator ended and is started again" in (federation / "up.log").read_text())
        assert "stepped aside" in (federation / "coordinator.log").read_text()
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=60)
    again = ward.until(lambda: (found := lease(ward, "the schedules")) and found.epoch > taken.epoch and found)
    assert f"(process {second.pid})" not in again.holder
