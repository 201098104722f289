"""``wardround hospital``: what an administrator types, right and wrong, against a real gateway."""

import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from components.gateway.prefect_routes import ROUTES
from components.gateway.tokens import Invitation
from components.gateway.transport import Route
from components.governance.certificates import issue_credential, make_authority, make_csr
from components.governance.hospital_settings import read_settings
from components.governance.identity_files import CoordinatorFolder, SiteFolder
from flows.closed_worker import EMPTY_TEMPLATE
from flows.early import ROOT
from flows.hospital_route import AUTHORITY_FILE, read_route
from tests.command_line import Run
from tests.components.gateway.gates import Build, Gate, until
from tests.components.gateway.test_client import Relay, middlebox
from tests.flows.test_doctor import gate, write_items, write_settings
from tests.flows.test_hospital_worker import in_loop, make_pool, prefect, set_template

__all__ = ["gate", "prefect"]  # fixtures
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WARDROUND_HOSPITAL", raising=False)


def enrolled(gate: Gate, wardround: Run, site: str) -> Path:
    assert wardround("hospital", "enroll", "--token", gate.token(site)).code == 0
    return Path("hospital")


def test_enrolment_makes_the_folder_and_says_what_comes_next(gate: Gate, wardround: Run) -> None:
    finished = wardround("hospital", "enroll", "--token", gate.token("north"))
    assert (finished.code, finished.err) == (0, "")
    assert "north is enrolled in the federation ward" in finished.out
    assert finished.out.splitlines()[-2:] == ["  wardround hospital doctor", "  wardround hospital start"]
    assert SiteFolder(Path("hospital")).read_credential().site == "north"
    assert stat.S_IMODE(Path("hospital/hospital.yaml").stat().st_mode) == 0o600
    assert read_settings(Path("hospital")).data == {"*": "/data"}
    assert "token" not in Path("hospital/route.json").read_text()


def test_a_folder_of_ones_own_is_named_in_what_comes_next_and_settings_stay(gate: Gate, wardround: Run) -> None:
    Path("my ward").mkdir(mode=0o700)
    write_settings(Path("my ward"), Path("/films"))
    finished = wardround("hospital", "enroll", "--token", gate.token("north"), WARDROUND_HOSPITAL="my ward")
    assert finished.out.splitlines()[-1] == "  wardround hospital start --folder 'my ward'"
    assert read_settings(Path("my ward")).data == {"*": "/films"}


def test_a_token_is_usable_once_and_wrong_ones_are_named(gate: Gate, wardround: Run) -> None:
    token = gate.token("north")
    assert wardround("hospital", "enroll", "--token", token, "--folder", "first").code == 0
    used = wardround("hospital", "enroll", "--token", token, "--folder", "second")
    assert used.code == 4
    assert "was used, or has expired" in used.err
    assert "ask the federation's operator for a new token" in used.err
    damaged = wardround("hospital", "enroll", "--token", token[:40], "--folder", "third")
    assert damaged.code == 4
    assert "this is not a token" in damaged.err
    expired = wardround("hospital", "enroll", "--token", gate.token("south", life_s=-1.0), "--folder", "third")
    assert "has expired" in expired.err
    assert not Path("third/credential.pem").exists()
    assert not Path("third/hospital.yaml").exists()


def test_a_hospital_is_not_turned_into_another(gate: Gate, wardround: Run) -> None:
    folder = enrolled(gate, wardround, "north")
    finished = wardround("hospital", "enroll", "--token", gate.token("south"))
    assert finished.code == 4
    assert "is that of north in the federation ward" in finished.err
    assert "--folder" in finished.err
    assert SiteFolder(folder).read_credential().site == "north"
    assert wardround("hospital", "enroll", "--token", gate.token("north")).code == 0  # again is well


def test_a_proxy_that_inspects_tls_is_remembered(gate: Gate, wardround: Run, tmp_path: Path) -> None:
    _, inspect = middlebox(gate, tmp_path / "box")
    make_authority("elsewhere", tmp_path / "other")
    relay = Relay(gate.running.port, inspect=inspect)
    address = f"https://127.0.0.1:{relay.port}"
    authority = gate.secrets.authority.sha256
    invitation = Invitation(gateway=address, authority=authority, federation="ward", site="west")
    token = gate.sites.invite(invitation).text
    try:
        plain = wardround("hospital", "enroll", "--token", token)
        assert plain.code == 7
        assert "if this network inspects TLS" in plain.err
        other = wardround("hospital", "enroll", "--token", token, "--ca", "other/ca.pem", "--signed")
        assert other.code == 7
        right = wardround("hospital", "enroll", "--token", token, "--ca", "box/ca.pem", "--signed")
        assert (right.code, right.err) == (0, "")
        folder = Path("hospital")
        assert read_route(folder) == Route(authority_file=folder / AUTHORITY_FILE, signed=True)
        Path("box/ca.pem").unlink()  # a copy was kept
        write_settings(folder, write_items(tmp_path / "films"))
        assert wardround("hospital", "doctor").code == 0
    finally:
        relay.close()


def test_a_file_that_is_no_authority_is_named(gate: Gate, wardround: Run, tmp_path: Path) -> None:
    Path("note.txt").write_text("the proxy's certificate is on the intranet")
    for name, said in [("note.txt", "no certificate authority in PEM"), ("none.pem", "it is not there")]:
        finished = wardround("hospital", "enroll", "--token", gate.token("south"), "--ca", name)
        assert finished.code == 6
        assert said in finished.err
    assert not Path("hospital").exists()


@pytest.mark.parametrize("command", ["start", "doctor"])
def test_where_nobody_enrolled_it_says_how(command: str, wardround: Run) -> None:
    finished = wardround("hospital", command, "--folder", "nobody")
    assert finished.code == 1
    assert "wardround hospital enroll --token TOKEN" in finished.err
    assert not Path("nobody").exists()


def test_start_refuses_what_cannot_work(gate: Gate, wardround: Run) -> None:
    folder = enrolled(gate, wardround, "north")
    settings = (folder / "hospital.yaml").read_text()
    (folder / "hospital.yaml").write_text("data: {'*': [}\n")
    broken = wardround("hospital", "start")
    assert broken.code == 2
    assert "hospital.yaml:1: cannot be read as YAML" in broken.err
    (folder / "hospital.yaml").write_text(settings)
    identity, past = SiteFolder(folder), datetime.now(UTC) - timedelta(days=9)
    request = make_csr(identity.read_keys().tls, "north")
    old = issue_credential(gate.secrets.authority, request, site="north", life=timedelta(days=7), at=past)
    identity.write_credential(old.pem)
    expired = wardround("hospital", "start")
    assert expired.code == 4
    assert "enrol again with a new token" in expired.err


def test_the_doctor_prints_every_check_with_its_fix_and_exits_by_them(
    gate: Gate, wardround: Run, tmp_path: Path
) -> None:
    folder = enrolled(gate, wardround, "north")
    sick = wardround("hospital", "doctor")
    assert sick.code == 1
    assert "FAILED" in sick.out
    assert "to mend it: correct the folder in hospital/hospital.yaml" in " ".join(sick.out.split())
    assert "1 of 11 checks failed" in sick.out
    assert status(gate, "north") == "enrolled"
    write_settings(folder, write_items(tmp_path / "films"))
    well = wardround("hospital", "doctor")
    assert (well.code, well.err) == (0, "")
    assert "all 11 checks passed" in well.out
    assert "give a study file with --study" in well.out
    assert all(len(line) <= 80 for line in well.out.splitlines()[:-2])
    assert status(gate, "north") == "ready"
    (folder / "keys" / "tls.key").chmod(0o644)
    leaky = wardround("hospital", "doctor")
    assert leaky.code == 1
    assert "chmod 600" in leaky.out
    assert "the report was not sent" in leaky.out


@in_loop
async def _pool(site: str) -> None:
    await make_pool(site)
    await set_template(site, EMPTY_TEMPLATE)


def test_start_works_by_the_route_that_was_given_until_it_is_told_to_end(
    prefect: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, wardround: Run
) -> None:
    folder = tmp_path_factory.mktemp("federation")
    secrets = CoordinatorFolder(folder).make("ward", names=["localhost"], ips=["127.0.0.1"])
    build = Build(folder, secrets, [])
    gate = build(ROUTES, prefect_url=prefect)
    _, inspect = middlebox(gate, tmp_path / "box")
    relay = Relay(gate.running.port, inspect=inspect)
    _pool("north")
    invitation = Invitation(
        gateway=f"https://127.0.0.1:{relay.port}", authority=secrets.authority.sha256, federation="ward", site="north"
    )
    options = ["--token", gate.sites.invite(invitation).text, "--ca", "box/ca.pem", "--signed"]
    assert wardround("hospital", "enroll", *options).code == 0
    with open("start.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "hospital", "start"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: process.poll() is not None or last_seen(gate, "north"), 90)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, Path("start.log").read_text()
        assert last_seen(gate, "north")
    finally:
        process.kill()
        process.wait()
        relay.close()
        for running, database in build.made:
            running.stop()
            database.close()
    assert "Traceback" not in Path("start.log").read_text()


def last_seen(gate: Gate, site: str) -> float | None:
    found = gate.sites.get(site)
    return found.last_seen if found else None


def status(gate: Gate, site: str) -> str:
    found = gate.sites.get(site)
    assert found is not None
    return found.status


def test_settings_are_printed_with_their_defaults(gate: Gate, wardround: Run) -> None:
    enrolled(gate, wardround, "north")
    finished = wardround("hospital", "settings")
    assert yaml.safe_load(finished.out)["policy"]["min_sites"] == 2
    assert yaml.safe_load(finished.out) == read_settings(Path("hospital")).model_dump(mode="json")


def test_help_and_enrolment_need_no_torch_and_no_prefect() -> None:
    program = (
        "import sys, flows.cli, flows.doctor, flows.hospital_route, components.gateway.client as c\n"
        "assert not {'torch', 'monai', 'prefect', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
