"""The doctor: real gateways, real files and a real process that computes; each check fails for its own reason."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from components.gateway.client import enrol
from components.gateway.database import Database
from components.gateway.serve import make_server
from components.gateway.transport import Route
from components.governance.acceptances import Acceptance, Acceptances
from components.governance.certificates import issue_credential, make_csr
from components.governance.identity_files import SiteFolder
from components.rounds import ItemCounts
from components.study_file import load_analysis
from flows import doctor, doctor_process
from flows.doctor import Finding
from flows.doctor_child import Opened, Timed
from flows.hospital_route import AUTHORITY_FILE, keep_route, read_route
from tests.components.analytics.hospitals import write_hospitals
from tests.components.gateway.gates import Gate, Running, gates
from tests.components.gateway.test_client import Relay, middlebox
from tests.references.tiny_study import write_study

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gates(tmp_path_factory.mktemp("federation")) as build:
        yield build()


@pytest.fixture
def north(gate: Gate, tmp_path: Path) -> Path:
    """A hospital that is in order."""
    folder = tmp_path / "north"
    enrol(gate.token("north"), SiteFolder(folder))
    write_settings(folder, write_items(tmp_path / "films"))
    return folder


def write_items(folder: Path, *, broken: int = 0) -> Path:
    """Write 60 films with their list; some cannot be decoded."""
    folder.mkdir()
    random = np.random.default_rng(3)
    lines = ["file,label,patient"]
    for number in range(60):
        path = folder / f"film-{number}.png"
        Image.fromarray(random.integers(0, 255, (16, 16), dtype=np.uint8)).save(path)
        if number < broken:
            path.write_bytes(b"no film")
        lines.append(f"{path.name},{'ill' if number % 3 == 0 else 'normal'},patient-{number}")
    (folder / "items.csv").write_text("\n".join(lines))
    return folder


def write_settings(folder: Path, data: Path, **policy: object) -> None:
    path = folder / "hospital.yaml"
    path.write_text(yaml.safe_dump({"data": {"*": str(data)}, "policy": policy}))
    path.chmod(0o600)


def table_study(folder: Path, **changes: object) -> Path:
    data = {"source": "table", "path": ".", "intensity": "minmax", "window": None}
    return write_study(folder, **{"data": data, "sites": {"count": 2, "partition": "iid"}, **changes})


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def failed(finding: Finding, *words: str) -> bool:
    """Whether a check failed, saying this, with a fix."""
    assert not finding.passed
    assert all(word in finding.said + " " + finding.fix for word in words), finding
    return bool(finding.fix)


def test_a_hospital_in_order_passes_and_what_it_reports_names_no_file(gate: Gate, north: Path, tmp_path: Path) -> None:
    findings = doctor.examine(north, table_study(tmp_path))
    assert [finding.name for finding in findings if not finding.passed] == []
    found = by_name(findings)
    assert found["data set"].facts["usable"] == 60
    assert found["computing"].facts["batch_size"] == 8
    rounds = found["a round"].facts
    steps = 42 // 8 + 1
    assert float(rounds["round_s"]) >= round(steps * float(found["computing"].facts["step_s"]) * 0.9, 2)
    doctor.send_report(north, findings)
    site = gate.sites.get("north")
    assert site is not None
    assert site.status == "ready"
    assert site.doctor is not None
    assert set(site.doctor["findings"]) == {finding.name.replace(" ", "_") for finding in findings}
    told = json.dumps(site.doctor)
    assert not any(word in told for word in (str(tmp_path), str(north), "film", "patient-", "items.csv", "/"))


def test_a_hospital_that_fails_is_not_ready(gate: Gate, north: Path) -> None:
    doctor.send_report(north, [Finding("disk", False, "full", "free it")])
    site = gate.sites.get("north")
    assert site is not None
    assert site.status == "enrolled"


def test_clocks_that_are_apart_are_named_with_the_seconds(gate: Gate, north: Path) -> None:
    database = Database(gate.settings.database, clock=lambda: time.time() + 300)
    running = Running(make_server(gate.settings, database, ()))
    try:
        turn_to(north, running.port)
        found = by_name(doctor.check_gateway(north))
    finally:
        running.stop()
        database.close()
    assert failed(found["clock"], "300", "behind", "NTP")
    assert found["clock"].facts["apart_s"] == pytest.approx(300, abs=5)


def turn_to(folder: Path, port: int) -> None:
    """Let a hospital's gateway be at another port."""
    identity = SiteFolder(folder)
    pinned = identity.read_federation()
    identity.write_federation(pinned.model_copy(update={"gateway": f"https://127.0.0.1:{port}"}))


def test_a_gateway_that_is_away_is_a_finding(north: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE_S", 0.1)
    turn_to(north, 9)
    (finding,) = doctor.check_gateway(north)
    assert failed(finding, "cannot be reached", "HTTPS_PROXY")


def test_a_hospital_that_was_shut_out_is_told(gate: Gate, tmp_path: Path) -> None:
    folder = gate.enrol("east").state
    gate.sites.revoke("east")
    found = by_name(doctor.check_gateway(folder))
    assert found["gateway"].passed
    assert failed(found["membership"], "revoked", "enroll --token")


def test_behind_a_proxy_that_inspects_tls_the_doctor_asks_for_signed_requests(gate: Gate, tmp_path: Path) -> None:
    folder = gate.enrol("west").state
    _, inspect = middlebox(gate, tmp_path / "box")
    relay = Relay(gate.running.port, inspect=inspect)
    try:
        turn_to(folder, relay.port)
        assert failed(doctor.check_gateway(folder)[0], "inspects TLS", "--ca")
        keep_route(folder, Route(authority_file=tmp_path / "box" / "ca.pem"))
        assert failed(by_name(doctor.check_gateway(folder))["membership"], "--signed")
        keep_route(folder, Route(authority_file=tmp_path / "box" / "ca.pem", signed=True))
        assert all(finding.passed for finding in doctor.check_gateway(folder))
    finally:
        relay.close()
    assert read_route(folder) == Route(authority_file=folder / AUTHORITY_FILE, signed=True)


def test_an_expired_credential_is_named_with_its_end(gate: Gate, north: Path) -> None:
    assert doctor.check_credential(north).passed
    identity, past = SiteFolder(north), datetime.now(UTC) - timedelta(days=9)
    request = make_csr(identity.read_keys().tls, "north")
    old = issue_credential(gate.secrets.authority, request, site="north", life=timedelta(days=7), at=past)
    identity.write_credential(old.pem)
    assert failed(doctor.check_credential(north), f"expired on {old.not_after:%Y-%m-%d}", "enroll --token")


def test_keys_that_others_can_read_or_that_are_gone_are_named(north: Path) -> None:
    key = north / "keys" / "signing.key"
    assert doctor.check_keys(north).passed
    key.chmod(0o644)
    assert failed(doctor.check_keys(north), "signing.key has mode 0644", "chmod 600")
    key.unlink()
    assert failed(doctor.check_keys(north), "signing.key", "backup")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"data: [", "hospital.yaml:1: cannot be read as YAML"),
        (b"data:\n  '*': 7\n", "data.*"),
        (b"policy: {}\n", "data names no folder"),
        (b"data: {'*': /data}\npolicy: {max_epoch: 3}\n", "policy.max_epoch"),
        (b"data: {'*': \xff\xfe}\n", "UTF-8"),
    ],
)
def test_settings_that_are_wrong_are_named_with_the_field(north: Path, text: bytes, said: str) -> None:
    assert doctor.check_settings(north).passed
    (north / "hospital.yaml").write_bytes(text)
    assert failed(doctor.check_settings(north), said, "hospital.yaml")
    assert failed(doctor.check_data(north), "settings")


def test_a_policy_that_others_can_change_is_refused(north: Path) -> None:
    (north / "hospital.yaml").chmod(0o666)
    assert failed(doctor.check_settings(north), "mode 0666", "chmod 600")


def test_data_that_cannot_be_read_is_named(north: Path, tmp_path: Path) -> None:
    assert doctor.check_data(north).passed
    write_settings(north, tmp_path / "nowhere")
    finding = doctor.check_data(north)
    assert failed(finding, "nowhere: No such file", "hospital.yaml")
    assert finding.facts == {"places": 1, "unreadable": 1}
    (tmp_path / "empty").mkdir()
    write_settings(north, tmp_path / "empty")
    assert failed(doctor.check_data(north), "is empty")


def test_data_without_permission_is_named(tmp_path: Path) -> None:
    if os.getuid():
        permission_is_named(tmp_path)
        return
    # Nothing is unreadable for root: be nobody meanwhile, where nobody can go.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    os.seteuid(65534)
    try:
        permission_is_named(folder, before=lambda: os.seteuid(0), after=lambda: os.seteuid(65534))
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


def permission_is_named(
    folder: Path, before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
) -> None:
    before()
    write_settings(folder, write_items(folder / "films"))
    (folder / "hospital.yaml").chmod(0o644)
    (folder / "films").chmod(0)
    after()
    assert failed(doctor.check_data(folder), "films: Permission denied", "let this user read it")


def test_a_folder_that_depends_on_where_one_is_is_refused(north: Path) -> None:
    write_settings(north, Path("films"))
    assert failed(doctor.check_data(north), "films depends on where", "in full")


def test_a_state_that_cannot_be_written_or_that_others_can_is_refused(north: Path) -> None:
    assert doctor.check_state(north).passed
    assert failed(doctor.check_state(Path("/proc")), "write")
    north.chmod(0o777)
    assert failed(doctor.check_state(north), "mode 0777", "chmod 700")
    assert not (north / "doctor.tmp").exists()


def test_too_little_room_is_named_with_what_to_do(tmp_path: Path) -> None:
    assert doctor.check_disk(tmp_path, needed=1).passed
    assert failed(doctor.check_disk(tmp_path, needed=1 << 60), "GB free", "move the folder")
    assert doctor.check_shared_memory(tmp_path, needed=1).passed
    assert failed(doctor.check_shared_memory(tmp_path, needed=1 << 60), "MiB", "--shm-size")
    assert doctor.check_shared_memory(tmp_path / "none").passed


def test_data_that_is_mostly_unusable_is_counted(north: Path, tmp_path: Path) -> None:
    write_settings(north, write_items(tmp_path / "broken", broken=20))
    timed, opened = doctor.check_computing(north, table_study(tmp_path))[:2]
    assert timed.passed
    assert failed(opened, "20", "quarantine.csv")


def test_a_study_that_policy_or_hospital_do_not_have_is_refused(north: Path, tmp_path: Path) -> None:
    write_settings(north, tmp_path / "films", studies=["other"])
    assert failed(doctor.check_computing(north, table_study(tmp_path))[1], "policy does not name the study tiny")
    write_settings(north, tmp_path / "films")
    other = table_study(tmp_path, sites=[{"name": "south", "path": "."}])
    assert failed(doctor.check_computing(north, other)[1], "does not name north")
    other.write_text("study: [")
    assert failed(doctor.check_computing(north, other)[1], "tiny.yaml")
    (north / "federation.json").write_text("{}")
    assert failed(doctor.check_computing(north, other)[1], "federation.json")


def test_a_process_that_dies_is_a_finding(north: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_process, "TIMED_WITHIN_S", 0.01)
    (finding, data) = doctor.check_computing(north, table_study(tmp_path))
    assert failed(finding, "was killed")
    assert failed(data, "not looked at")
    monkeypatch.setattr(doctor_process.sys, "executable", "/bin/false")
    assert failed(doctor.check_computing(north, None)[0], "ended with status 1")


def test_a_gpu_that_processes_do_not_see_is_a_failure() -> None:
    seen = Timed(device="cuda", gpus=1, driver=True, batch_size=16, step_s=0.01)
    assert doctor.judge_timed(seen).passed
    assert "GPU" in doctor.judge_timed(seen).said
    unseen = seen.model_copy(update={"device": "cpu", "gpus": 0})
    assert failed(doctor.judge_timed(unseen), "do not see", "--gpus all")
    assert doctor.judge_timed(unseen.model_copy(update={"driver": False})).passed
    full = Timed(problem="OutOfMemoryError: CUDA out of memory")
    assert failed(doctor.judge_timed(full), "out of memory", "smaller batch")


def test_the_estimate_is_batches_and_scores() -> None:
    timed = Timed(step_s=0.5, score_s=0.1, start_s=4.0, batch_size=8)
    items = ItemCounts(expected=60, usable=60, quarantined=0)
    opened = Opened(study="tiny", items=items, steps=10, scored=20, seconds=3.0)
    facts = doctor.estimate_round(timed, opened).facts
    assert facts == {"study": "tiny", "round_s": 7.0, "first_round_s": 14.0}


def test_of_an_analysis_the_table_is_examined_and_whether_the_study_was_accepted(tmp_path: Path, gate: Gate) -> None:
    study = write_hospitals(tmp_path / "trial", west=lambda frame: frame.drop(columns="age"))
    folder = tmp_path / "hospital"
    enrol(gate.token("table"), SiteFolder(folder))
    write_settings(folder, tmp_path / "trial" / "east")
    assert "has not accepted this version of trial-trial" in doctor.check_table(folder, study).said
    whole = load_analysis(study)
    Acceptances(folder).give_analysis(whole.study, whole.digest, Acceptance(by="anna", given="now", reason=""))
    found = doctor.check_table(folder, study)
    assert found.passed
    assert found.said == "trial-trial: 150 patients; nothing of fewer than 5 leaves"
    assert found.facts == {"study": "trial-trial"}
    write_settings(folder, tmp_path / "trial" / "west")
    assert "the table has no column age" in doctor.check_table(folder, study).said
