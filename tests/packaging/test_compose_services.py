"""What the compose files start, started: every service's own command, environment and health check as real processes.

Paths and names inside the containers are those of a temporary folder and of the loopback here; the rest is as written.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.compose import Deployment, write_deployment
from flows.health import HEARTBEAT
from flows.local_postgres import LocalPostgres, PostgresMissingError, find_postgres, free_port
from tests.packaging.compose_files import read_compose, read_variables
from tests.references.open_folder import open_folder
from tests.references.tiny_study import write_films, write_study

ROOT = Path(__file__).resolve().parents[2]
HOSPITAL = ROOT / "deploy" / "hospital"
LASTING = ("postgresql", "prefect", "mlflow", "gateway", "coordinator")
pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


@dataclass
class Machine:
    """The containers of one compose file, as processes."""

    services: dict[str, Any]
    folder: Path
    places: dict[str, str]
    postgres: LocalPostgres
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """A text of the container's, with this machine's paths and addresses in it."""
        for inside, outside in self.places.items():
            text = text.replace(inside, outside)
        return text

    def command(self, name: str, given: list[str] | None = None) -> list[str]:
        service = self.services[name]
        words = [*service.get("entrypoint", []), *(given or service["command"])]
        if words[0] == "wardround":
            words[:1] = ["python", "-m", "flows.cli"]
        if words[0] == "postgres":
            words[1:1] = ["-D", str(self.postgres.data), "-k", "", "-p", self.places["PGPORT"]]
        return [self.here(word) for word in words]

    def environment(self, name: str) -> dict[str, str]:
        """The service's own, and what its image brings: where the programs are."""
        own = {key: self.here(value) for key, value in self.services[name].get("environment", {}).items()}
        path = os.pathsep.join([str(Path(sys.executable).parent), str(self.postgres.programs), "/usr/bin", "/bin"])
        # The product's own command line in 80 columns, whoever runs the test.
        image = {"PATH": path, "PYTHONPATH": str(ROOT), "PGPORT": self.places["PGPORT"], "COLUMNS": "200"}
        return {**own, **image}

    def start(self, name: str) -> None:
        who = self.postgres.ownership if name == "postgresql" else {}
        with open(self.folder.parent / f"{name}.log", "ab") as output:
            self.running[name] = subprocess.Popen(
                self.command(name), env=self.environment(name), cwd="/", stdout=output, stderr=output, **who
            )

    def stop(self, name: str) -> None:
        number = signal.SIGINT if self.services[name].get("stop_signal") == "SIGINT" else signal.SIGTERM
        process = self.running.pop(name)
        process.send_signal(number)
        assert process.wait(30) in (0, -number, 128 + number), self.log(name)

    def run(self, name: str, *given: str) -> subprocess.CompletedProcess[str]:
        command = self.command(name, list(given) or None)
        return subprocess.run(
            command, env=self.environment(name), cwd="/", capture_output=True, text=True, check=False, timeout=200
        )

    def healthy(self, name: str) -> bool:
        test = [self.here(word) for word in self.services[name]["healthcheck"]["test"][1:]]
        return subprocess.run(test, env=self.environment(name), cwd="/", capture_output=True).returncode == 0

    def wait_healthy(self, name: str) -> None:
        deadline = time.monotonic() + 120
        while not self.healthy(name):
            assert self.running[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.3)

    def log(self, name: str) -> str:
        return f"{name}: {(self.folder.parent / f'{name}.log').read_text()[-3000:]}"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """The coordinator's containers, all that last healthy and all that end ended, in the order they need each other."""
    with open_folder() as folder:
        found = _coordinator(folder)
        try:
            for name in ("postgresql", "databases", "prefect", "mlflow-tables", "mlflow", "gateway", "coordinator"):
                if name in LASTING:
                    found.start(name)
                    found.wait_healthy(name)
                else:
                    done = found.run(name)
                    assert done.returncode == 0, done.stdout + done.stderr
            yield found
        finally:
            for name in reversed(list(found.running)):
                found.stop(name)


def _coordinator(folder: Path) -> Machine:
    """The coordinator's folder, and where on this machine its containers' places are."""
    made, port = folder / "wardround", free_port()
    try:
        postgres = find_postgres(folder / "postgresql")
    except PostgresMissingError as error:
        pytest.skip(str(error))
    write_deployment(made, Deployment("chest", ["127.0.0.1"], port, "wardround"))
    compose = read_compose(made / "compose.yaml", variables=read_variables(made / ".env"))
    postgres.make(made / "databases")  # as PostgreSQL's image does at its first start
    prefect, mlflow, database = (str(free_port()) for _ in range(3))
    home = folder / "home"
    home.mkdir()
    places = {
        "/run/secrets": f"{made}/databases", "/federation/gateway": f"{made}/gateway", "/wardround/home": str(home),
        "/federation/exchange": f"{made}/exchange", "/databases.sql": f"{made}/databases.sql",
        "destination=/mlflow": f"destination={made}/mlflow", "//mlflow:": "//127.0.0.1:", "//prefect:": "//127.0.0.1:",
        "0.0.0.0": "127.0.0.1", "@postgresql:": "@127.0.0.1:", "5432": database, "4200": prefect, "5000": mlflow,
        '"port": 8443': f'"port": {port}', ":8443": f":{port}",
    }  # fmt: skip
    machine = Machine(compose["services"], made, places, postgres)
    # What the containers are told in files names their places too.
    for file in (made / "gateway" / "gateway.json", made / "coordinator.json"):
        file.write_text(machine.here(file.read_text()))
    (home / "federation").symlink_to(made)
    (folder / "tmp").mkdir()
    for service in compose["services"].values():
        if "HOME" in service.get("environment", {}):
            changed = {key: value.replace("/tmp", f"{folder}/tmp") for key, value in service["environment"].items()}
            service["environment"] = changed
    databases = compose["services"]["databases"]
    databases["command"] = ["127.0.0.1" if word == "postgresql" else word for word in databases["command"]]
    places["PGPORT"] = database
    return machine


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def answers(address: str, body: bytes | None = None) -> bool:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def posted(address: str, body: dict[str, Any]) -> Any:
    """What Prefect answers to a question."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_the_operator_s_commands_find_the_servers(machine: Machine) -> None:
    assert "no hospital yet" in machine.run("coordinator", "status").stdout
    assert machine.run("coordinator", "coordinator", "invite", "north").stdout.startswith("wr1.")
    assert "north" in machine.run("coordinator", "status").stdout


def test_the_coordinator_trains_what_is_deployed_when_it_is_due(machine: Machine, tmp_path: Path) -> None:
    write_films(tmp_path)
    study = write_study(tmp_path)
    deployed = machine.run("coordinator", "deploy", str(study), "--cron", "0 2 29 2 *")
    assert "is trained at 0 2 29 2 * (UTC)" in deployed.stdout, deployed.stdout + deployed.stderr
    prefect = machine.here("http://127.0.0.1:4200/api")
    found = posted(f"{prefect}/deployments/filter", {"deployments": {"name": {"any_": ["tiny"]}}})
    run = posted(f"{prefect}/deployments/{found[0]['id']}/create_flow_run", {})  # as if it were that hour

    def state() -> dict[str, Any]:
        found = posted(f"{prefect}/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        return dict(found[0]["state"])

    eventually(lambda: state()["type"] == "FAILED")
    assert "no hospital is enrolled" in state()["message"]  # as the training's command says it


def test_the_coordinator_is_not_healthy_when_prefect_has_long_told_it_nothing(machine: Machine) -> None:
    assert machine.healthy("coordinator")
    machine.stop("coordinator")
    os.utime(machine.folder / HEARTBEAT, (0, 0))
    assert not machine.healthy("coordinator")
    machine.start("coordinator")
    machine.wait_healthy("coordinator")


def test_what_ends_by_itself_may_run_again(machine: Machine) -> None:
    for name in ("databases", "mlflow-tables"):
        assert machine.run(name).returncode == 0


@pytest.mark.parametrize("name", ["gateway", "mlflow", "prefect"])
def test_a_health_check_tells_when_its_server_has_stopped(machine: Machine, name: str) -> None:
    assert machine.healthy(name)
    machine.stop(name)
    assert not machine.healthy(name)
    machine.start(name)
    machine.wait_healthy(name)


def test_a_gateway_with_a_certificate_of_another_authority_is_not_healthy(machine: Machine, tmp_path: Path) -> None:
    write_deployment(tmp_path / "other", Deployment("other", ["127.0.0.1"], 8443, "wardround"))
    mine = machine.folder / "gateway" / "secrets" / "ca.pem"
    kept = mine.read_bytes()
    try:
        shutil.copyfile(tmp_path / "other" / "secrets" / "ca.pem", mine)
        assert not machine.healthy("gateway")
    finally:
        mine.write_bytes(kept)
    assert machine.healthy("gateway")


def test_a_training_s_files_go_through_mlflow_s_server(machine: Machine, tmp_path: Path) -> None:
    """As the coordinator does, which has no way to the folder of the files; asked by the name it has inside."""
    program = "from mlflow import MlflowClient; import sys; c = MlflowClient(sys.argv[1]); "
    program += "r = c.create_run(c.create_experiment('tried')); c.log_text(r.info.run_id, 'kept', 'note.txt'); "
    program += "print(r.info.artifact_uri, c.list_artifacts(r.info.run_id)[0].path)"
    address = machine.here("http://mlflow:5000")
    asked = [sys.executable, "-c", program, address]
    done = subprocess.run(asked, env=machine.environment("mlflow"), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mlflow-artifacts:/")
    assert [path.read_text() for path in (machine.folder / "mlflow").rglob("note.txt")] == ["kept"]


def test_both_interfaces_are_served_and_find_their_servers(machine: Machine) -> None:
    prefect, mlflow = (machine.here(f"http://127.0.0.1:{port}") for port in ("4200", "5000"))
    for address in (f"{prefect}/", f"{prefect}/v2/", f"{mlflow}/"):
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"<title>" in page.read()
    with urllib.request.urlopen(f"{prefect}/ui-settings", timeout=30) as settings:
        assert json.load(settings)["api_url"] == "/api"  # whatever address the operator's browser has it under


def test_mlflow_answers_to_its_name_inside_and_to_no_other(machine: Machine) -> None:
    program = "import sys, urllib.request as u; "
    program += "r = u.Request(sys.argv[1] + '/api/2.0/mlflow/experiments/get?experiment_id=0', "
    program += "headers={'Host': sys.argv[2]}); print(u.urlopen(r).status)"
    address = machine.here("http://mlflow:5000")
    port = machine.here("5000")
    for name, code in ((f"mlflow:{port}", 0), (f"127.0.0.1:{port}", 0), ("evil.example", 1)):
        asked = [sys.executable, "-c", program, address, name]
        assert subprocess.run(asked, capture_output=True, timeout=60).returncode == code, name


def test_a_hospital_enrols_starts_and_is_healthy_once_it_was_heard(machine: Machine, tmp_path: Path) -> None:
    variables = {**read_variables(HOSPITAL / ".env.example"), "WARDROUND_DATA": str(tmp_path)}
    services = read_compose(HOSPITAL / "compose.yaml", variables=variables)["services"]
    services["hospital"]["environment"]["HOME"] = str(tmp_path)
    (tmp_path / "work").mkdir()
    places = {**machine.places, "/state": str(tmp_path / "state")}
    hospital = Machine(services, tmp_path / "work", places, machine.postgres)
    token = machine.run("coordinator", "coordinator", "invite", "south").stdout.strip()
    enrolled = hospital.run("hospital", "hospital", "enroll", "--token", token)
    assert enrolled.returncode == 0, enrolled.stdout + enrolled.stderr
    assert not hospital.healthy("hospital")
    hospital.start("hospital")
    try:
        hospital.wait_healthy("hospital")
    finally:
        hospital.stop("hospital")
    assert "idle" in machine.run("coordinator", "status").stdout


def test_postgresql_s_health_check_tells_too(machine: Machine) -> None:
    assert machine.healthy("postgresql")
    machine.stop("postgresql")
    assert not machine.healthy("postgresql")
    machine.start("postgresql")
    machine.wait_healthy("postgresql")
    # The servers come back to it by themselves.
    prefect, mlflow = (machine.here(f"http://127.0.0.1:{port}") for port in ("4200", "5000"))
    eventually(lambda: answers(f"{prefect}/api/work_pools/filter", b"{}"))
    eventually(lambda: answers(f"{mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0"))
    eventually(lambda: "north" in machine.run("coordinator", "status").stdout)
