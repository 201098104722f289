"""What may happen to a training, on a real federation: hospitals that are away, come or go; a schedule; an end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sqlalchemy import update

from components.gateway.client import GatewayClient
from components.gateway.database import Database, credentials
from components.governance.identity_files import SiteFolder
from components.rounds import Answer
from flows.packages import ROOT
from tests.end_to_end.loopback import Loopback, children, stopped
from tests.end_to_end.records import serve_prefect
from tests.references.tiny_study import STUDY, write_films, write_study

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    folder = tmp_path_factory.mktemp("rounds")
    write_films(folder)
    ward = Loopback(write_study(folder, rounds={"max": 1}), STUDY, folder / "home")
    ward.run("up", str(ward.study), "--database", "sqlite")
    try:
        yield ward
    finally:
        ward.run("down")


def change(ward: Loopback, **sections: object) -> str:
    """Write another edition of the study; return its file."""
    return str(write_study(ward.study.parent, **sections))


def test_a_round_waits_for_its_quorum_and_goes_on_when_the_hospital_is_back(ward: Loopback) -> None:
    study = change(ward, rounds={"max": 2, "quorum": 3}, seed=11)
    with stopped(ward.worker("site-3")), ward.running("train", study) as train:
        said = ward.until(lambda: "waiting for quorum" in (train.stdout.readline() if train.stdout else ""))
        assert said
    with ward.running("train", study) as train:  # the one above was killed: this one takes it up
        ended(ward, train)
    assert [entry.data["took_part"] for entry in ward.events("aggregated")][-2:] == [["site-1", "site-2", "site-3"]] * 2


def test_a_round_closes_without_a_hospital_that_is_away_and_says_so_on_the_version(ward: Loopback) -> None:
    study = change(ward, rounds={"max": 3, "quorum": 2}, seed=12)
    before = len(ward.events("aggregated"))
    with ward.running("train", study) as train:
        ward.until(lambda: len(ward.events("aggregated")) > before)
        with stopped(ward.worker("site-3")):
            missed = ward.until(lambda: ward.events("update_refused", site="site-3"))[0]
            assert "not heard of" in missed.data["reason"]
        ended(ward, train)
    took_part = {entry.data["round"]: entry.data["took_part"] for entry in ward.events("aggregated")[before:]}
    assert took_part[missed.data["round"]] == ["site-1", "site-2"]
    table = ward.run("status").stdout
    assert "site-3" in table


@pytest.mark.long
def test_a_hospital_that_is_away_when_the_model_is_tested_is_said_to_have_no_result(ward: Loopback) -> None:
    study = change(ward, rounds={"max": 1, "quorum": 2}, seed=19)
    before = len(ward.events("evaluated"))
    with ward.running("train", study) as train:
        ward.until(lambda: len(ward.events("evaluated")) > before)
        with stopped(ward.worker("site-3")):
            ward.until(lambda: ward.events("evaluation_refused", site="site-3", split="test"))
            said = ended(ward, train)
    (row,) = [line.split() for line in said.splitlines() if line.strip().startswith("site-3")]
    assert row == ["site-3", "-"]


def test_a_credential_that_is_renewed_in_mid_training_costs_no_round(ward: Loopback) -> None:
    """The old one is shut out, besides: whatever still showed it would be refused."""
    study = change(ward, rounds={"max": 2, "quorum": 3}, seed=17)
    folder = SiteFolder(ward.hospital("site-2"))
    with ward.running("train", study) as train:
        at_work, old = stop_at_work(ward, "site-2"), folder.read_credential().serial
        with GatewayClient(folder) as client:
            assert client.renew().serial != old
        database = Database(f"sqlite:///{ward.home / 'federation' / 'gateway.db'}")
        with database.write() as connection:
            connection.execute(update(credentials).where(credentials.c.serial == old).values(revoked_at=1.0))
        database.close()
        for process in at_work:
            os.kill(process, signal.SIGCONT)
        ended(ward, train)
    assert {tuple(entry.data["took_part"]) for entry in ward.events("aggregated")[-2:]} == {
        ("site-1", "site-2", "site-3")
    }


@pytest.mark.long
def test_a_hospital_that_is_revoked_leaves_and_one_that_enrols_joins_between_rounds(
    ward: Loopback, tmp_path: Path
) -> None:
    study, before = change(ward, rounds={"max": 40, "quorum": 2}, local={"epochs": 50}, seed=13), latest(ward)
    token = ward.run("coordinator", "invite", "site-4").stdout.strip()
    hospital = tmp_path / "site-4"
    hospital.mkdir(mode=0o700)
    settings = yaml.safe_load((ward.hospital("site-2") / "hospital.yaml").read_text())
    settings["sources"][STUDY]["name"] = "site-4"
    for part in settings["sources"][STUDY]["parts"]:
        part["site"] = "site-4"
    (hospital / "hospital.yaml").write_text(yaml.safe_dump(settings))
    with ward.running("train", study, "--rounds", "40") as train:
        ward.until(lambda: latest(ward) != before and ward.events("committed", training=latest(ward)))
        ward.run("coordinator", "revoke", "site-1")
        ward.run("hospital", "enroll", "--token", token, "--folder", str(hospital))
        joining = subprocess.Popen(
            [sys.executable, "-m", "flows.hospital_process", str(hospital)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            ended(ward, train)
        finally:
            joining.terminate()
            joining.wait(30)
    training = ward.events("training_finished")[-1].data["training"]
    assert [e.data["site"] for e in ward.events("site_left", training=training)] == ["site-1"]
    assert [e.data["site"] for e in ward.events("site_joined", training=training)] == ["site-4"]
    last = ward.events("aggregated", training=training)[-1]
    assert last.data["took_part"] == ["site-2", "site-3", "site-4"]


def test_a_cancelled_training_ends_at_the_hospitals_at_once(ward: Loopback) -> None:
    study = change(ward, rounds={"max": 2, "quorum": 2}, seed=14)
    with ward.running("train", study) as train:
        stop_at_work(ward, "site-2")
        said = ward.run("cancel", STUDY, "--reason", "wrong labels").stdout
        assert f"cancelled {latest(ward)}" in said
        ended(ward, train, 130)
    ward.until(lambda: ward.at("site-2", "work_withdrawn"))
    ward.until(lambda: not children(ward.worker("site-2")), limit_s=30)
    assert ward.events("cancelled", training=latest(ward))[0].data["why"] == "wrong labels"
    assert "no training and no analysis of tiny is under way" in ward.run("cancel", STUDY, check=False).stderr


@pytest.mark.long
def test_rounds_that_are_done_have_versions_when_a_training_is_cancelled(ward: Loopback) -> None:
    study = change(ward, rounds={"max": 40, "quorum": 2}, seed=17)
    with ward.running("train", study) as train:
        ward.until(lambda: len(ward.events("evaluated", training=latest(ward))) >= 4, every_s=0.01)
        ward.run("cancel", STUDY)
        ended(ward, train, 130)
    done = [entry.data["round"] for entry in ward.events("evaluated", training=latest(ward))]
    assert [entry.data["round"] for entry in ward.events("committed", training=latest(ward))] == done


@pytest.mark.long
def test_a_training_that_nobody_drives_any_more_is_cancelled_too(ward: Loopback) -> None:
    study = change(ward, rounds={"max": 2, "quorum": 2}, seed=15)
    with ward.running("train", study) as train:
        stop_at_work(ward, "site-2")
        ward.until(lambda: "RUNNING" in shown(ward, latest(ward)))
        train.kill()
        train.wait()
    assert children(ward.worker("site-2"))
    assert "which nobody was driving" in ward.run("cancel", str(study)).stdout
    ward.until(lambda: not children(ward.worker("site-2")), limit_s=30)
    # Another hospital may have been done before; nothing is shown as open.
    assert {"CANCELLED"} <= shown(ward, latest(ward)) <= {"CANCELLED", "COMPLETED"}


def shown(ward: Loopback, training: str) -> set[str]:
    """States in which Prefect shows the runs of a training."""
    with serve_prefect(ward.home) as prefect:
        runs = [run for run in prefect.find("flow_runs") if training in (*run["tags"], run["name"])]
    return {run["state"]["type"] for run in runs}


def test_a_deployed_study_is_trained_when_its_time_has_come(ward: Loopback) -> None:
    study = change(ward, rounds={"max": 1, "quorum": 2}, seed=16)
    before = len(ward.events("training_finished"))
    assert "no schedule" in ward.run("deploy", study, "--cron", "at night", check=False).stderr
    ward.run("deploy", study, "--cron", "* * * * *", "--timezone", "Europe/Berlin")
    ward.until(lambda: len(ward.events("training_finished")) > before)
    assert "off the schedule" in ward.run("deploy", study, "--remove").stdout
    answers = [Answer.model_validate(e.data["answer"]) for e in ward.events("update_received")[-2:]]
    assert {answer.round for answer in answers} == {1}


def stop_at_work(ward: Loopback, site: str) -> list[int]:
    """Stop the processes that train at a hospital, in the first round of a training that has just been started."""
    before = len(ward.at(site, "plan_accepted"))
    ward.until(lambda: len(ward.at(site, "plan_accepted")) > before)
    stopped_ones: list[int] = ward.until(lambda: children(ward.worker(site)))
    for process in stopped_ones:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
    return stopped_ones


def ended(ward: Loopback, train: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a training to end as it should, and return what it said since."""
    said, _ = train.communicate(timeout=600)
    assert train.returncode == code, said + ward.logs()
    return said


def latest(ward: Loopback) -> str:
    """Return the training that was started last."""
    started = ward.events("training_started")
    return str(started[-1].data["training"]) if started else ""
