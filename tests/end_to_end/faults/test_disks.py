"""A full disk, at a hospital or the coordinator: said, nothing half-written used, gone on with once there is room."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.bench import small_disk
from tests.end_to_end.faults.trained import Trained, federation
from tests.references.open_folder import open_folder

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]
SITE = "site-2"
SAID = "the coordinator's disk is full: tell the operator"


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill a disk up to its last byte."""
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with pytest.raises(OSError, match="No space left"):
                    grow(file, size)
        yield
    finally:
        ballast.unlink()


def grow(file: io.FileIO, size: int) -> None:
    """Write until that is refused."""
    while True:
        file.write(b"\0" * size)


@dataclass(frozen=True)
class Small:
    """A federation with small disks: of a hospital, of the coordinator's training, of what hospitals deliver."""

    trained: Trained
    hospital: Path
    trainings: Path
    delivered: Path


@pytest.fixture(scope="module")
def small() -> Iterator[Small]:
    with open_folder() as folder, ExitStack() as stack:
        home = folder / "home"
        (home / "federation" / "hospitals").mkdir(parents=True)
        hospital = small_disk(home / "federation" / "hospitals" / SITE, "64m", stack)
        hospital.chmod(0o700)
        trainings = small_disk(home / "trainings", "64m", stack)
        (home / "federation" / "exchange").mkdir()
        delivered = small_disk(home / "federation" / "exchange" / "sealed", "64m", stack)
        yield Small(stack.enter_context(federation(home=home)), hospital, trainings, delivered)


def test_a_full_disk_at_a_hospital_is_said_and_its_work_done_when_there_is_room(small: Small) -> None:
    with small.trained.disturbed() as row:
        row.ward.until(lambda: row.events("update_received", round=1, site=SITE))
        row.strike()
        with full(small.hospital):
            said = row.notice(lambda: row.events("update_refused", site=SITE))
            assert "StorageError; see the hospital's own log" in said[0].data["reason"]
            row.again()
        row.go_on()
        row.end()
    row.record("a hospital's disk full", "training")


def test_a_full_disk_at_the_coordinator_ends_the_training_and_the_same_command_goes_on(small: Small) -> None:
    ward = small.trained.ward
    with small.trained.disturbed() as row:
        row.reach("asked")
        row.strike()
        with full(small.trainings):
            row.notice(lambda: row.train.poll() is not None)
            said, _ = row.train.communicate(timeout=60)
            assert row.train.returncode == 6, said
            assert "No space left on device; free some space on that disk and run the same command again" in said
            assert "Traceback" not in said
        with ward.running("train", str(ward.study)) as again:
            row.go_on()
            row.end(again)
    row.record("the coordinator's disk full, and the training resumed", "asked")


def test_a_full_disk_behind_the_gateway_is_told_to_the_hospitals_and_waited_for(small: Small) -> None:
    ward = small.trained.ward
    logs = [ward.hospital(site) / "worker.log" for site in ward.sites]
    with small.trained.disturbed() as row:
        row.reach("asked")
        before = sum(log.read_text().count(SAID) for log in logs)
        row.strike()
        with full(small.delivered):
            row.notice(lambda: sum(log.read_text().count(SAID) for log in logs) > before)
            row.again()
        row.go_on()
        row.end()
    row.record("the disk of what hospitals deliver full", "asked")
