"""The process with the patients' data, at a hospital: what it answers may leave, and what it prints stays."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.dispatch import SiteSetting
from components.errors import WardRoundError
from components.journal import read
from components.site_source import SiteSource, SourcePart
from flows.dispatch import PoolDispatcher
from flows.early import end_site_process, site_environment, spawn_site_process
from flows.site_process import LOG
from tests.end_to_end.ward import wait_until
from tests.references.tiny_study import tiny_study
from tests.references.tiny_table import patients, table_study, write_table

PATIENT, FOLDER = "QZMRN00471177", "qzcanary-ward"
pytestmark = pytest.mark.timeout(120)


def test_what_is_wrong_with_a_table_is_told_by_field_and_never_by_value(tmp_path: Path) -> None:
    rows = [{**row, "chol": 5.1773, "record": PATIENT} for row in patients("north", 80)]
    rows[3]["age"] = "QZNAME^ANNA"
    folder = write_table(tmp_path / FOLDER / "patients.csv", rows).parent
    source = SiteSource(name="north", parts=[SourcePart(site="north", kind="folder", path=str(folder))])
    setting = SiteSetting(study=table_study(), source=source, state=str(folder / "s"), store=str(tmp_path / "store"))
    pool = PoolDispatcher({"north": setting}, spawn_site_process(2, clean=True), {"north": 1})
    try:
        reason = pool.prepare("north").result(60).reason
    finally:
        pool.close()
    assert "chol is out of its range of 60 to 700 (mg/dl) in 80 of 80 rows" in reason
    assert not [word for word in (PATIENT, FOLDER, "QZNAME", "5.17") if word in reason]


@contextmanager
def process(folder: Path, *, clean: bool) -> Iterator[PoolDispatcher]:
    """A site's process whose data is one damaged file, with a patient's number for its name."""
    data = folder / FOLDER
    data.mkdir(parents=True)
    (data / f"{PATIENT}.npz").write_bytes(b"PK, and nothing more")
    source = SiteSource(name="north", parts=[SourcePart(site="north", kind="npz", path=str(data / f"{PATIENT}.npz"))])
    setting = SiteSetting(study=tiny_study(), source=source, state=str(data / "state"), store=str(data / "store"))
    pool = PoolDispatcher({"north": setting}, spawn_site_process(2, clean=clean), {"north": 1})
    try:
        yield pool
    finally:
        pool.close()


def test_what_a_hospital_s_process_answers_names_no_patient(tmp_path: Path) -> None:
    with process(tmp_path / "open", clean=False) as pool:
        assert PATIENT in pool.prepare("north").result(60).reason  # the control: the message does name one
    with process(tmp_path / "hospital", clean=True) as pool:
        reason = pool.prepare("north").result(60).reason
    assert reason == "[file] is damaged, or not an npz file of plain arrays (none are unpickled)"
    (told,) = [e for e in read(tmp_path / "hospital" / FOLDER / "state" / "journal.jsonl") if e.event == "not_ready"]
    assert PATIENT in told.data["reason"]  # the administrator can read it


def test_an_error_of_a_library_leaves_by_its_class_and_is_whole_in_the_hospital_s_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    messages = {}
    for clean in (False, True):
        folder = tmp_path / str(clean)
        with process(folder, clean=clean) as pool:
            (folder / FOLDER / "state").mkdir(exist_ok=True)
            (folder / FOLDER / "state" / "journal.jsonl").mkdir()
            with pytest.raises(WardRoundError) as raised:
                pool.prepare("north").result(60)
            messages[clean] = str(raised.value)
    assert "journal.jsonl" in messages[False]  # the control
    assert messages[True] == "StorageError; see the hospital's own log"
    log = tmp_path / "True" / FOLDER / "state" / LOG
    assert "Traceback" in log.read_text()
    assert FOLDER in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert FOLDER not in "".join(capfd.readouterr())


def test_a_process_ends_with_a_coordinator_that_was_killed_before_it_read_an_answer(tmp_path: Path) -> None:
    source = SiteSource(name="north", parts=[SourcePart(site="north", kind="npz", path=str(tmp_path / "none.npz"))])
    setting = SiteSetting(study=tiny_study(), source=source, state=str(tmp_path), store=str(tmp_path / "store"))
    started = spawn_site_process(1)
    try:
        assert started.process.stdin is not None
        started.process.stdin.write(json.dumps([setting.model_dump(mode="json")]).encode())
        started.process.stdin.close()
        (connection,) = started.connections
        connection.sendall(b'{"id": 0, "call": "prepare", "payload": {"site": "north"}}\n')
        assert select.select([connection], [], [], 60)[0]
        connection.close()
        assert started.process.wait(60) == 0
    finally:
        end_site_process(started.process)


def test_the_process_in_place_of_one_that_died_is_a_hospital_s_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARDROUND_PASSWORD_OF_THE_PACS", "qzsecret")
    with process(tmp_path, clean=True) as pool:
        pool.prepare("north").result(60)
        os.killpg(pool._processes[0].pid, signal.SIGKILL)
        assert wait_until(lambda: len(pool._processes) > 1, limit_s=30)
        assert PATIENT not in pool.prepare("north").result(60).reason
        for started in pool._processes[1:]:
            assert b"qzsecret" not in Path(f"/proc/{started.pid}/environ").read_bytes()


def test_a_hospitals_process_computes_with_the_kernels_that_its_administrator_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Qzsecret")
    found = site_environment(clean=True)
    assert found["OPENBLAS_CORETYPE"] == "Haswell"
    assert "Qzsecret" not in found.values()
