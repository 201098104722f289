"""An asynchronous training at real hospitals: one stands still, the coordinator is killed, and the journal decides."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.journal import Entry, read
from components.ledger import trainings
from components.study import Study
from tests.end_to_end.loopback import Loopback, children
from tests.references.open_folder import open_folder
from tests.references.replayed import replay
from tests.references.tiny_study import STUDY, write_films, write_study

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]
ROUNDS = 12


@pytest.fixture
def ward() -> Iterator[Loopback]:
    with open_folder() as folder:
        write_films(folder)
        study = write_study(folder, rounds={"mode": "async", "buffer": 2, "max": ROUNDS}, local={"epochs": 3})
        ward = Loopback(study, STUDY, folder / "home")
        ward.run("up", str(study), "--database", "sqlite")
        try:
            yield ward
        finally:
            ward.run("down")


def test_the_others_go_on_and_what_a_killed_coordinator_left_is_taken_up(ward: Loopback, tmp_path: Path) -> None:
    with ward.running("train", str(ward.study)) as train:
        ward.until(lambda: ward.at("site-3", "plan_accepted"))
        held = ward.until(lambda: children(ward.worker("site-3")))
        for process in held:
            os.kill(process, signal.SIGSTOP)
        ward.until(lambda: len(ward.events("aggregated")) >= 3)
        train.kill()
        train.wait()
    (ledger,) = trainings(read(ward.home / "trainings" / STUDY / "journal.jsonl")).values()
    collects = ledger.rounds[max(ledger.rounds)].state is None
    assert ("site-3 (since round" in " ".join(ward.run("status").stdout.split())) == collects
    before = [entry.data for entry in ward.events("update_received")]
    with ward.running("train", str(ward.study)) as train:
        more = len(ward.events("aggregated")) + 2
        ward.until(lambda: len(ward.events("aggregated")) >= more)
        for process in held:
            os.kill(process, signal.SIGCONT)
        said, _ = train.communicate(timeout=400)
        assert train.returncode == 0, said + ward.logs()

    assert [entry.data for entry in ward.events("update_received")][: len(before)] == before
    aggregated = ward.events("aggregated")
    assert [entry.data["round"] for entry in aggregated] == list(range(1, ROUNDS + 1))
    assert max(entry.data["staleness"].get("site-3", 0) for entry in aggregated) >= 3
    journal: list[Entry] = list(read(ward.home / "trainings" / STUDY / "journal.jsonl"))
    study = Study.model_validate(ward.events("training_started")[0].data["study"])
    digests = {entry.data["round"]: entry.data["state"]["weights"] for entry in aggregated}
    assert digests == replay(study, journal, ward.study.parent, state=tmp_path)
    assert list((ward.home / "federation" / "exchange").rglob("*.safetensors")) == []
