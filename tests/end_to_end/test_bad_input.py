"""Whatever is wrong: one clear message, its exit status, no traceback, and nothing recorded is lost."""

import contextlib
import re
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from components.errors import StorageError
from components.journal import VerifyReport, verify
from tests.command_line import Run, Trained
from tests.end_to_end import bad_studies, bad_surroundings
from tests.end_to_end.bench import Bench, Case, small_disk
from tests.end_to_end.ward import Ward

LOG_LINE = re.compile(
    r"^\d\d:\d\d:\d\d|^\d{4}[-/]\d\d[-/]\d\d|\b(WARNING|ERROR|CRITICAL|INFO)\b|Traceback|^  File ", re.MULTILINE
)


def recorded(home: Path) -> tuple[VerifyReport, list[tuple[object, ...]]]:
    """The chain of the earlier training's journal, and its versions in MLflow's database."""
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        versions = database.execute("SELECT name, version, source FROM model_versions ORDER BY version").fetchall()
    return verify(home / "trainings" / "tiny" / "journal.jsonl"), versions


@pytest.mark.parametrize("case", [*bad_studies.CASES, *bad_surroundings.CASES], ids=lambda case: case.name)
def test_bad_input_gives_one_clear_message(case: Case, trained: Trained, wardround: Run, tmp_path: Path) -> None:
    before = recorded(trained.home)
    folder = tmp_path / "case"
    folder.mkdir()
    with ExitStack() as undo:
        environment = {"WARDROUND_HOME": str(trained.home), "WARDROUND_DATA": str(folder)}
        bench = Bench(folder, trained, environment, undo)
        finished = wardround(*case.prepare(bench), **environment)
    assert finished.code == case.code, finished
    assert finished.err.startswith("error: "), finished
    assert finished.err.count("error: ") == 1, finished
    for pattern in case.says:
        assert re.search(pattern, finished.err), (pattern, finished.err)
    assert not LOG_LINE.search(finished.out + finished.err), finished
    assert recorded(trained.home) == before


def fill(place: Path) -> Path:
    """Write a file that takes all the space there is."""
    ballast = place / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            continue
    return ballast


def test_a_disk_that_fills_up_in_mid_training_loses_nothing(tmp_path: Path) -> None:
    with ExitStack() as undo:
        ward = Ward.make(tmp_path / "ward")
        small_disk(ward.home, "48m", undo)
        command = ward.start("--dispatcher", "in-process")
        command.wait_for("round_planned")
        ballast = fill(ward.home)
        assert command.wait() == StorageError.exit_code, command.words()
        assert re.fullmatch(r"error: .*(disk|space).*\n", command.errors()), command.words()
        ward.verify_journals()

        ballast.unlink()
        ward.run("--dispatcher", "in-process")
        ward.verify_journals()
        assert [e.data["training"] for e in ward.events("training_started")] == [
            e.data["training"] for e in ward.events("training_finished")
        ]
        assert ward.recorded_twice() == []
