"""A hospital's disk that is full: said, nothing half-written used, and gone on with when there is room."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.bench import small_disk
from tests.end_to_end.faults.trained import Trained, federation
from tests.references.open_folder import open_folder

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]
SITE = "site-2"


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


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Trained, Path]]:
    """A federation in which a hospital has a small disk."""
    with open_folder() as folder, ExitStack() as stack:
        home = folder / "home"
        (home / "federation" / "hospitals").mkdir(parents=True)
        hospital = small_disk(home / "federation" / "hospitals" / SITE, "64m", stack)
        hospital.chmod(0o700)
        trained = stack.enter_context(federation(home=home))
        yield trained, hospital


def test_a_full_disk_at_a_hospital_is_said_and_its_work_done_when_there_is_room(small: tuple[Trained, Path]) -> None:
    trained, disk = small
    with trained.disturbed() as row:
        row.ward.until(lambda: row.events("update_received", round=1, site=SITE))
        row.strike()
        with full(disk):
            said = row.notice(lambda: row.events("update_refused", site=SITE))
            assert "StorageError; see the hospital's own log" in said[0].data["reason"]
            row.again()
        row.go_on()
        row.end()
    row.record("a hospital's disk full", "training")
