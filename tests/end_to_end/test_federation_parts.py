"""`wardround up` when its processes are killed, ended and started again; with PostgreSQL and with SQLite."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from mlflow import MlflowClient

from flows import local_record
from flows.health import server_trouble
from flows.local_postgres import PostgresMissingError, find_postgres
from flows.local_record import Addresses, ProcessMark
from tests.end_to_end.test_federation import wardround
from tests.references.open_folder import open_folder
from tests.references.tiny_study import STUDY, write_films, write_study

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Up:
    """A home whose federation was started."""

    study: Path
    home: Path
    database: str

    @property
    def folder(self) -> Path:
        return self.home / "federation"

    @property
    def addresses(self) -> Addresses:
        found = local_record.addresses(self.home)
        assert found is not None
        return found

    def parts(self) -> dict[str, ProcessMark]:
        """Every process that the supervisor noted."""
        return {mark["name"]: ProcessMark(**mark) for mark in json.loads((self.folder / "parts.json").read_text())}

    def start(self) -> str:
        return wardround("up", str(self.study), "--database", self.database, home=self.home).stdout

    def troubles(self) -> list[str]:
        """What is wrong with the three servers, each asked for something from its database."""
        found, wrong = self.addresses, []
        asked = (
            ("POST", f"{found.prefect}/api/work_pools/filter", {}),
            ("GET", f"{found.mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0", None),
        )
        for method, url, body in asked:
            try:
                # Patient: what is asked here is whether it answers, on a machine that may be busy, not how soon.
                answer = httpx.request(method, url, json=body, trust_env=False, timeout=60)
                wrong += [] if answer.is_success else [f"{url} answers {answer.status_code}: {answer.text[:200]}"]
            except httpx.HTTPError as error:
                wrong.append(f"{url}: {error!r}")
        door = server_trouble(f"{found.gateway}/v1/health", str(self.folder / "secrets" / "ca.pem"))
        return wrong + ([door] if door else [])

    def answers(self) -> bool:
        """Whether all three servers do."""
        return not self.troubles()


def processes_of(home: Path) -> list[str]:
    """The command lines, or folders, of all processes that belong to a home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(home) in line or str(home) in os.readlink(process / "cwd"):
                found.append(line)
    return found


def eventually(holds: Callable[[], bool], within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_free(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(address).port or 0)) != 0


@pytest.fixture(scope="module", params=[pytest.param("postgresql", marks=pytest.mark.long), "sqlite"])
def federation(request: pytest.FixtureRequest) -> Iterator[Up]:
    with open_folder() as folder:
        if request.param == "postgresql":
            try:
                find_postgres(folder / "home" / "federation" / "postgresql")
            except PostgresMissingError as error:
                pytest.skip(str(error))
        write_films(folder)
        study = write_study(folder, rounds={"max": 1}, sites={"partition": "sizes:0.5,0.5"})
        up = Up(study, folder / "home", request.param)
        said = up.start()
        try:
            assert up.addresses.prefect in said
            assert up.addresses.mlflow in said
            assert said.startswith("database: " + ("PostgreSQL 1" if request.param == "postgresql" else "SQLite\n"))
            yield up
        finally:
            wardround("down", home=up.home)
        assert processes_of(up.home) == []


def test_every_part_that_is_killed_comes_back(federation: Up) -> None:
    before = federation.parts()
    names = {"Prefect", "MLflow", "gateway", "coordinator", "site-1", "site-2"}
    assert set(before) == names | ({"PostgreSQL"} if federation.database == "postgresql" else set())
    assert federation.troubles() == []
    for mark in before.values():
        os.kill(mark.pid, signal.SIGKILL)
    eventually(lambda: all(mark.runs and mark != before[name] for name, mark in federation.parts().items()))
    eventually(federation.answers)
    assert set(federation.parts()) == set(before)


def test_the_interfaces_are_shown_and_a_training_goes_to_its_mlflow(federation: Up) -> None:
    eventually(federation.answers)
    shown = wardround("ui", home=federation.home).stdout
    assert federation.addresses.mlflow in shown
    assert federation.addresses.prefect in shown
    wardround("train", str(federation.study), home=federation.home)
    client = MlflowClient(federation.addresses.mlflow, federation.addresses.mlflow)
    (version,) = client.search_model_versions(f"name='{STUDY}'")
    assert version.tags["wardround.took_part"] == "site-1, site-2"
    assert (federation.home / "mlflow.db").exists() == (federation.database == "sqlite")


def test_a_supervisor_that_was_killed_leaves_nothing_once_it_is_taken_down(federation: Up) -> None:
    found, marks, before = federation.addresses, federation.parts(), local_record.supervisor(federation.home)
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: local_record.supervisor(federation.home) is None)
    assert any(mark.runs for mark in marks.values())
    assert wardround("down", home=federation.home).stdout == "down\n"
    assert processes_of(federation.home) == []
    assert all(map(is_free, (found.gateway, found.prefect, found.mlflow)))
    assert wardround("down", home=federation.home).stdout == "nothing was up\n"


def test_started_again_it_goes_on_with_the_same_databases(federation: Up) -> None:
    wardround("down", home=federation.home)
    federation.start()
    again = wardround("up", str(federation.study), home=federation.home, check=False)
    assert (again.returncode, "is up already" in again.stderr) == (7, True)
    client = MlflowClient(federation.addresses.mlflow, federation.addresses.mlflow)
    assert len(client.search_model_versions(f"name='{STUDY}'")) == 1
    asked = f"{federation.addresses.prefect}/api/work_pools/filter"
    pools = httpx.post(asked, json={}, trust_env=False, timeout=60).json()
    assert {pool["name"] for pool in pools} == {"site-1", "site-2", "coordinator"}
    said = wardround("status", home=federation.home).stdout
    assert said.count("enrolled") == 2


def test_after_a_killed_supervisor_up_alone_mends_it(federation: Up) -> None:
    before, supervisor = federation.parts(), local_record.supervisor(federation.home)
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    eventually(lambda: local_record.supervisor(federation.home) is None)
    federation.start()
    assert not any(mark.runs for mark in before.values())
    assert federation.troubles() == [], (federation.folder / "up.log").read_text()
