"""The compose files of coordinator and hospital: what Docker takes, and what must hold of every container."""

from __future__ import annotations

import copy
import re
import shutil
import stat
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.compose import Deployment, write_deployment
from tests.packaging.compose_files import problems, read_compose, read_variables

ROOT = Path(__file__).resolve().parents[2]
HOSPITAL = ROOT / "deploy" / "hospital"
CHOSEN = Deployment("chest", ["gateway.example.org"], 8443, "wardround:1.0")
Compose = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("coordinator") / "wardround"
    write_deployment(made, CHOSEN)
    return made


@pytest.fixture(scope="module")
def coordinator(folder: Path) -> Compose:
    return read_compose(folder / "compose.yaml", variables=read_variables(folder / ".env"))


@pytest.fixture(scope="module")
def hospital() -> Compose:
    return read_compose(HOSPITAL / "compose.yaml", variables=read_variables(HOSPITAL / ".env.example"))


def test_docker_would_take_them(folder: Path, coordinator: Compose, hospital: Compose) -> None:
    given, filled = read_variables(folder / ".env"), read_variables(HOSPITAL / ".env.example")
    with_ui = read_compose(folder / "compose.yaml", folder / "compose.interfaces.yaml", variables=given)
    with_gpu = read_compose(HOSPITAL / "compose.yaml", HOSPITAL / "compose.gpu.yaml", variables=filled)
    assert [list(problems(each)) for each in (coordinator, with_ui, hospital, with_gpu)] == [[], [], [], []]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda c: c.update(service={}), "service: unknown"),
        (lambda c: c["services"]["gateway"].update(port=["1"]), "gateway: port: unknown"),
        (lambda c: c["services"]["gateway"].update(networks=["outer"]), "gateway: networks: no outer"),
        (lambda c: c["services"]["mlflow"].update(secrets=["key"]), "mlflow: secrets: no key"),
        (lambda c: c["services"]["mlflow"]["environment"].update(A=True), "mlflow: environment: True is no string"),
        (lambda c: c["services"]["mlflow"].update(restart="often"), "mlflow: restart: 'often'"),
        (lambda c: c["services"]["mlflow"]["healthcheck"].update(interval="15"), "mlflow: healthcheck.interval: '15'"),
        (lambda c: c["services"]["prefect"].pop("healthcheck"), "gateway: depends_on: prefect has no health check"),
        (lambda c: c["services"]["postgresql"].update(
            depends_on={"databases": {"condition": "service_started"}}), "postgresql: needs itself"),
    ],
)  # fmt: skip
def test_the_check_notices(coordinator: Compose, damage: Callable[[Compose], object], problem: str) -> None:
    damaged = copy.deepcopy(coordinator)
    damage(damaged)
    assert problem in list(problems(damaged))


def test_only_the_gateway_publishes_a_port(coordinator: Compose, hospital: Compose) -> None:
    published = {name: service["ports"] for name, service in coordinator["services"].items() if "ports" in service}
    assert published == {"gateway": ["8443:8443"]}
    assert not any("ports" in service for service in hospital["services"].values())


def test_the_servers_are_on_a_network_that_leads_nowhere(coordinator: Compose) -> None:
    assert coordinator["networks"]["inside"] == {"internal": True}
    outside = {name for name, service in coordinator["services"].items() if service["networks"] != ["inside"]}
    assert outside == {"gateway"}


def test_the_interfaces_are_published_on_the_loopback_alone(folder: Path) -> None:
    variables = read_variables(folder / ".env")
    found = read_compose(folder / "compose.yaml", folder / "compose.interfaces.yaml", variables=variables)
    ports = [port for name in ("prefect", "mlflow") for port in found["services"][name]["ports"]]
    assert ports == ["127.0.0.1:4200:4200", "127.0.0.1:5000:5000"]


def test_every_container_has_as_few_rights_as_it_can(coordinator: Compose, hospital: Compose) -> None:
    for service in (*coordinator["services"].values(), *hospital["services"].values()):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith("0")
        assert service["mem_limit"]
        assert service["pids_limit"]


def test_what_runs_on_is_watched_and_started_again(coordinator: Compose, hospital: Compose) -> None:
    services = {**coordinator["services"], **hospital["services"]}
    lasting = {name for name, service in services.items() if service["restart"] == "unless-stopped"}
    assert lasting == {"postgresql", "prefect", "mlflow", "gateway", "coordinator", "hospital"}
    assert all("healthcheck" in services[name] for name in lasting)


def test_no_password_is_written_anywhere_but_in_its_file(folder: Path) -> None:
    secret = {path.read_text().strip().rpartition(":")[2] for path in (folder / "databases").iterdir()}
    assert len(secret) == 4  # the superuser's is in two files
    others = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "databases"]
    assert [path.name for path in others if any(word in path.read_text() for word in secret)] == []


def test_secrets_are_their_owner_s_alone_and_every_file_that_is_named_is_there(
    folder: Path, coordinator: Compose
) -> None:
    files = [path for name in ("secrets", "gateway/secrets", "databases") for path in (folder / name).iterdir()]
    assert len(files) >= 15
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    named = [folder / secret["file"] for secret in coordinator["secrets"].values()]
    named += [
        folder / volume.split(":")[0] for each in coordinator["services"].values() for volume in each.get("volumes", [])
    ]
    assert [str(path) for path in named if not path.exists()] == []
    owner = {f"{path.stat().st_uid}:{path.stat().st_gid}" for path in (*files, *named)}
    assert owner == {service["user"] for service in coordinator["services"].values()}


def test_the_gateway_has_no_key_that_signs_plans_or_opens_updates(folder: Path, coordinator: Compose) -> None:
    assert sorted(path.name for path in (folder / "gateway" / "secrets").iterdir()) == [
        "ca.key", "ca.pem", "gateway.key", "gateway.pem",
    ]  # fmt: skip
    mounted = [volume.split(":")[0] for volume in coordinator["services"]["gateway"]["volumes"]]
    assert mounted == ["./gateway", "./exchange"]


def test_each_server_gets_its_own_password_and_no_other(coordinator: Compose) -> None:
    given = {name: service.get("secrets", []) for name, service in coordinator["services"].items()}
    for name in ("prefect", "mlflow", "gateway"):
        assert given[name] == [f"{name}.pgpass"]


def test_written_again_secrets_and_the_operator_s_own_lines_stay(tmp_path: Path) -> None:
    folder = tmp_path / "wardround"
    write_deployment(folder, CHOSEN)
    with (folder / ".env").open("a") as file:
        file.write("POSTGRESQL_IMAGE=postgres:17.2\n")
    kept = {path: path.read_bytes() for path in folder.rglob("*.*") if path.parent.name in ("secrets", "databases")}
    write_deployment(folder, Deployment("chest", ["gateway.example.org"], 443, "wardround:1.1"))
    assert {path: path.read_bytes() for path in kept} == kept
    assert read_variables(folder / ".env") == {
        **read_variables(folder / ".env"), "WARDROUND_IMAGE": "wardround:1.1", "WARDROUND_PORT": "443",
        "POSTGRESQL_IMAGE": "postgres:17.2",
    }  # fmt: skip


def test_a_hospital_s_data_is_mounted_read_only_and_its_proxy_passed_on(hospital: Compose) -> None:
    service = hospital["services"]["hospital"]
    assert [volume.split(":")[1:] for volume in service["volumes"]] == [["/data", "ro"], ["/state"]]
    proxied = read_compose(
        HOSPITAL / "compose.yaml",
        variables={**read_variables(HOSPITAL / ".env.example"), "HTTPS_PROXY": "http://proxy:3128"},
    )
    assert proxied["services"]["hospital"]["environment"]["HTTPS_PROXY"] == "http://proxy:3128"


def test_what_must_be_filled_in_is_asked_for() -> None:
    with pytest.raises(ValueError, match="WARDROUND_IMAGE is not given: name the image"):
        read_compose(HOSPITAL / "compose.yaml", variables={})


@pytest.mark.parametrize("who", ["coordinator", "hospital", "hospital with a GPU"])
def test_docker_compose_itself_takes_them(folder: Path, who: str) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    files = {"coordinator": ["compose.yaml"], "hospital": ["compose.yaml"]}.get(
        who, ["compose.yaml", "compose.gpu.yaml"]
    )
    place = folder if who == "coordinator" else HOSPITAL
    environment = place / (".env" if who == "coordinator" else ".env.example")
    named = [part for name in files for part in ("-f", str(place / name))]
    done = subprocess.run(
        [docker, "compose", "--env-file", str(environment), *named, "config", "-q"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_image_is_built_from_what_the_wheel_holds() -> None:
    """Docker copies in silence what is there, and fails late on what the ignore file keeps from it."""
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    held = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert sorted(copied) == sorted(held)
    assert let_through == {*held, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
