"""A coordinator that is backed up at work and restored elsewhere, under the hospitals that went on meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.journal import read, verify
from components.ledger import trainings
from flows.local_postgres import PostgresMissingError, find_postgres
from tests.end_to_end.loopback import Loopback
from tests.references.open_folder import open_folder
from tests.references.tiny_study import STUDY, write_films, write_study

SITES = ("site-1", "site-2", "site-3")
ROUNDS = 12
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(params=["sqlite", "postgresql"])
def ward(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    """A federation that is up; whichever home it moves to, it is down at the end."""
    with open_folder() as folder:
        if request.param == "postgresql":
            try:
                find_postgres(folder / "home" / "federation" / "postgresql")
            except PostgresMissingError as error:
                pytest.skip(str(error))
        write_films(folder)
        study = write_study(folder, rounds={"max": ROUNDS}, local={"epochs": 40})
        ward = Loopback(study, STUDY, folder / "home")
        ward.run("up", str(study), "--database", request.param)
        try:
            yield ward
        finally:
            for home in (ward.home, folder / "restored"):
                Loopback(study, STUDY, home).run("down")


def weights(ward: Loopback, training: str) -> dict[int, str]:
    return {e.data["round"]: e.data["state"]["weights"] for e in ward.events("aggregated", training=training)}


def move(ward: Loopback, backups: Path) -> Loopback:
    """Restore the newest backup into another home, with the hospitals as they are now."""
    restored = Loopback(ward.study, ward.name, ward.home.parent / "restored")
    ward.run("down")
    restored.run("coordinator", "restore", str(backups))
    shutil.copytree(ward.home / "federation" / "hospitals", restored.home / "federation" / "hospitals")
    restored.run("up", str(ward.study))
    return restored


def test_a_restore_that_is_older_than_the_hospitals_is_refused_by_them_and_goes_on_as_documented(
    ward: Loopback,
) -> None:
    backups = ward.home.parent / "backups"
    with ward.running("train", str(ward.study)) as train:
        ward.until(lambda: ward.events("aggregated", round=1), limit_s=600)
        assert "journal to line" in ward.run("coordinator", "backup", str(backups)).stdout
        assert train.wait(300) == 0, ward.logs()
    training = ward.events("training_finished")[0].data["training"]
    done = weights(ward, training)

    restored = move(ward, backups)
    before = restored.events("restored")[0]
    assert len(weights(restored, training)) < ROUNDS - 1, "or it is the round they know"
    refused = restored.run("train", str(ward.study), check=False)
    told = " ".join(refused.stdout.split()) + " ".join(refused.stderr.split())
    assert refused.returncode == 4, told
    assert "This coordinator's journal is older than theirs, as after a restore" in told
    assert f"wardround hospital accept-older {training}" in told
    for site in SITES:
        assert restored.at(site, "request_refused"), "each hospital has its refusal in its own journal"
        assert restored.at(site, "plan_accepted")[-1].data["plan"]["round"] == ROUNDS

    for site in SITES:
        restored.run(
            "hospital", "accept-older", training, "--reason", "disk lost", "--folder", str(restored.hospital(site))
        )
    restored.run("train", str(ward.study))
    assert weights(restored, training) == done
    again = [entry for entry in restored.events("committed", training=training)]
    assert [entry.data["round"] for entry in again] == list(range(1, ROUNDS + 1))
    for site in SITES:
        allowed = restored.at(site, "older_plan_allowed", training=training)
        assert [(e.data["reason"], e.data["seen"]) for e in allowed] == [("disk lost", ROUNDS)]
        verify(restored.hospital(site) / "journal.jsonl")
    assert before.seq < again[-1].seq
    verify(restored.home / "trainings" / STUDY / "journal.jsonl")


def test_after_a_restore_a_fresh_training_needs_nobodys_acceptance(ward: Loopback) -> None:
    backups = ward.home.parent / "backups"
    with ward.running("train", str(ward.study)) as train:
        ward.until(lambda: ward.events("aggregated", round=1), limit_s=600)
        ward.run("coordinator", "backup", str(backups))
        assert train.wait(300) == 0, ward.logs()
    restored = move(ward, backups)
    restored.run("train", str(ward.study), "--fresh")
    found = trainings(read(restored.home / "trainings" / STUDY / "journal.jsonl"))
    assert len(found) == 2
    assert [item.finished is not None for item in found.values()] == [False, True]
