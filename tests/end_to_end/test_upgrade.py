"""Ends of another version, as processes: a hospital that was upgraded too early, a coordinator that was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from flows.packages import ROOT
from tests.end_to_end.loopback import Loopback
from tests.references.tiny_study import STUDY, write_films, write_study

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
ROUNDS = 30
# Another version, said before anything else is imported that would take the own one.
OTHER = """
import runpy, sys
import components.exchange.protocol as protocol
protocol.PROTOCOL = {protocol}
import components.gateway.records as records
records.own_version = lambda: "{version}"
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""
NEWER = OTHER.format(protocol=2, version="9.1.0")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    folder = tmp_path_factory.mktemp("upgrade")
    write_films(folder)
    ward = Loopback(write_study(folder, rounds={"max": ROUNDS}, local={"epochs": 40}), STUDY, folder / "home")
    ward.run("up", str(ward.study), "--database", "sqlite")
    try:
        yield ward
    finally:
        ward.run("down")


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python beside the test; ended with the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""}
    running = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield running
    finally:
        running.terminate()
        running.communicate(timeout=60)


@contextmanager
def hospital(folder: Path, source: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a hospital's worker, by default of this version."""
    code = ["-c", source, "flows.hospital_process"] if source else ["-m", "flows.hospital_process"]
    with process(*code, str(folder)) as running:
        yield running


def enrol(ward: Loopback, folder: Path) -> None:
    """Enrol a fourth hospital, with data like those of the second."""
    folder.mkdir(mode=0o700)
    settings = yaml.safe_load((ward.hospital("site-2") / "hospital.yaml").read_text())
    settings["sources"][STUDY]["name"] = "site-4"
    for part in settings["sources"][STUDY]["parts"]:
        part["site"] = "site-4"
    (folder / "hospital.yaml").write_text(yaml.safe_dump(settings))
    token = ward.run("coordinator", "invite", "site-4").stdout.strip()
    ward.run("hospital", "enroll", "--token", token, "--folder", str(folder))


def shown(ward: Loopback) -> str:
    return " ".join(ward.run("status").stdout.split())


def test_a_hospital_that_is_upgraded_in_an_open_round_is_waited_for_by_name_and_versions(
    ward: Loopback, tmp_path: Path
) -> None:
    enrol(ward, tmp_path / "site-4")
    four = {"rounds": {"max": ROUNDS, "quorum": 4}, "sites": {"partition": "sizes:0.4,0.3,0.2,0.1"}}
    study = str(write_study(ward.study.parent, **four, local={"epochs": 40}))
    with ward.running("train", study) as train:
        with hospital(tmp_path / "site-4"):
            ward.until(lambda: ward.events("aggregated", round=1), limit_s=600)
        with hospital(tmp_path / "site-4", NEWER):
            said = ward.until(lambda: [e for e in ward.events("waiting") if "protocol 2" in e.data["reason"]])
            assert "site-4: it runs WardRound 9.1.0 (protocol 2), this coordinator" in said[0].data["reason"]
            assert "(protocol 1): update the coordinator" in said[0].data["reason"]
            told = shown(ward)
            assert "missing: site-4: it runs WardRound 9.1.0 (protocol 2), this coordinator" in told
        with hospital(tmp_path / "site-4"):
            assert train.wait(400) == 0, ward.logs()
    ward.run("coordinator", "revoke", "site-4")
    assert [entry.data["round"] for entry in ward.events("committed")] == list(range(1, ROUNDS + 1))
    assert {tuple(entry.data["took_part"]) for entry in ward.events("aggregated")} == {
        ("site-1", "site-2", "site-3", "site-4")
    }


def test_a_coordinator_that_is_upgraded_before_its_hospitals_says_so_and_asks_them_nothing(ward: Loopback) -> None:
    before = {site: len(ward.at(site, "request_refused")) for site in ("site-1", "site-2", "site-3")}
    study = str(write_study(ward.study.parent, rounds={"max": 1}, seed=3))
    home = ("--home", str(ward.home))
    with process("-c", NEWER, "flows.cli", "train", study, *home) as train:
        told, _ = train.communicate(timeout=120)
    told = " ".join(told.split())
    assert train.returncode == 5, told
    assert "site-1, site-2, site-3: it runs WardRound" in told
    assert "(protocol 1), this coordinator 9.1.0 (protocol 2): update the hospital" in told
    assert {site: len(ward.at(site, "request_refused")) for site in before} == before
    with process("-c", NEWER, "flows.cli", "status", *home) as status:
        told, _ = status.communicate(timeout=60)
    assert "update the hospital" in " ".join(told.split())
    ward.run("train", study)
