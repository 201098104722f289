"""Backing a coordinator up and restoring it; with servers and hospitals in `tests/end_to_end/test_restore.py`."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from components.backups import BackupFolder
from components.errors import StorageError
from components.exchange.store import FolderStore
from components.gateway.database import Database
from components.gateway.sites import Sites
from components.journal import Journal, read, verify
from flows.backup import back_up
from flows.restore import restore
from tests.command_line import Run

STUDY = "chest"


class Ward:
    """A coordinator's home without servers of its own: a journal, weights, a gateway's database, an MLflow file."""

    def __init__(self, wardround: Run, folder: Path) -> None:
        self.run, self.home, self.backups = wardround, folder / "home", folder / "backups"
        self.coordinator = self.home / "federation"
        init = ("coordinator", "init", "--no-compose", "--federation", STUDY, "--name", "gateway.example.org")
        assert wardround(*init).code == 0
        wardround("coordinator", "invite", "north")
        self.store = FolderStore(self.coordinator / "stores" / STUDY)
        self.train(1)
        client = MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}")
        client.create_experiment("e", artifact_location=(self.home / "artifacts" / "e").as_uri())
        (self.home / "artifacts" / "e").mkdir(parents=True)
        (self.home / "artifacts" / "e" / "figure.png").write_bytes(b"figure")

    def train(self, number: int) -> str:
        """Put the weights of a round into the store, then its line into the journal."""
        digest = self.store.put_weights({"w": torch.full((3,), float(number))})
        with Journal.open(self.home / "trainings" / STUDY / "journal.jsonl") as journal:
            journal.append("aggregated", training="t", round=number, weights=digest)
        return digest

    def back_up(self) -> None:
        done = self.run("coordinator", "backup", str(self.backups))
        assert done.code == 0, done.err


@pytest.fixture
def ward(wardround: Run, tmp_path: Path) -> Ward:
    return Ward(wardround, tmp_path)


def test_a_restored_home_has_what_the_first_had_and_says_so_in_its_journal(ward: Ward, tmp_path: Path) -> None:
    said = ward.run("coordinator", "backup", str(ward.backups)).out
    assert f"{STUDY}: journal to line 1" in said
    assert "not in it: your Prefect" in said
    new = tmp_path / "new"
    done = ward.run("coordinator", "restore", str(ward.backups), "--home", str(new))
    assert done.code == 0, done.err
    journal = new / "trainings" / STUDY / "journal.jsonl"
    first, restored = read(journal)
    assert (first, restored.event, restored.data["lines"]) == (read(journal)[0], "restored", 1)
    assert FolderStore(new / "federation" / "stores" / STUDY).get(first.data["weights"])["w"].tolist() == [1.0] * 3
    for name in ("ca.key", "signing.key", "sealing.key"):
        key = new / "federation" / "secrets" / name
        assert key.read_bytes() == (ward.coordinator / "secrets" / name).read_bytes()
        assert key.stat().st_mode & 0o777 == 0o600
    assert ward.run("status", "--home", str(new)).code == 0


def test_addresses_of_files_are_those_of_the_new_home(ward: Ward, tmp_path: Path) -> None:
    ward.back_up()
    new = tmp_path / "new"
    restore(ward.backups, new, new / "federation")
    config = json.loads((new / "federation" / "coordinator.json").read_text())
    assert config["database"] == f"sqlite:///{new / 'federation' / 'gateway.db'}"
    assert str(ward.home) not in (new / "federation" / "gateway.json").read_text()
    found = MlflowClient(f"sqlite:///{new / 'mlflow.db'}").get_experiment_by_name("e")
    assert found is not None
    assert found.artifact_location == (new / "artifacts" / "e").as_uri()
    assert (new / "artifacts" / "e" / "figure.png").read_bytes() == b"figure"


def test_an_invitation_of_before_is_void_after_a_restore(ward: Ward, tmp_path: Path) -> None:
    def open_ones(coordinator: Path) -> int:
        with closing(sqlite3.connect(coordinator / "gateway.db")) as connection:
            return int(connection.execute("SELECT count(*) FROM gateway_tokens").fetchone()[0])

    ward.back_up()
    restore(ward.backups, tmp_path / "new", tmp_path / "new" / "federation")
    assert (open_ones(ward.coordinator), open_ones(tmp_path / "new" / "federation")) == (1, 0)
    database = Database(f"sqlite:///{tmp_path / 'new' / 'federation' / 'gateway.db'}")
    assert [site.name for site in Sites(database).list()] == ["north"]
    database.close()


def test_nothing_is_restored_over_anything(ward: Ward, tmp_path: Path) -> None:
    ward.back_up()
    refused = ward.run("coordinator", "restore", str(ward.backups))
    assert (refused.code, "nothing is overwritten" in " ".join(refused.err.split())) == (6, True)
    assert not (ward.home / ".restoring").exists()


def test_a_damaged_backup_restores_nothing(ward: Ward, tmp_path: Path) -> None:
    ward.back_up()
    file = next(file for file in BackupFolder(ward.backups).read().files if file.path.endswith("figure.png"))
    (ward.backups / "objects" / file.sha256[:2] / file.sha256).write_bytes(b"fugure")
    assert "is damaged" in ward.run("coordinator", "restore", str(ward.backups), "--check").err
    with pytest.raises(StorageError, match=r"artifacts/e/figure.png is damaged"):
        restore(ward.backups, tmp_path / "new", tmp_path / "new" / "federation")
    assert not (tmp_path / "new").exists()


def test_a_backup_of_a_newer_wardround_names_both_versions(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward.back_up()
    monkeypatch.setattr("flows.restore.SCHEMA", 2)
    with pytest.raises(StorageError, match=r"protocol 1, tables 3\); this is WardRound .*protocol 1, tables 2"):
        restore(ward.backups, tmp_path / "new", tmp_path / "new" / "federation")


def test_a_second_backup_costs_what_has_changed(ward: Ward) -> None:
    first = back_up(ward.home, ward.coordinator, ward.backups)
    ward.train(2)
    second = back_up(ward.home, ward.coordinator, ward.backups, keep=1)
    assert first.new_bytes == sum(file.bytes for file in first.backup.files)
    copied_anew = [file for file in second.backup.files if file.path.endswith(".db")]
    assert second.new_bytes < 4096 + sum(file.bytes for file in copied_anew)
    assert BackupFolder(ward.backups).made() == [second.backup.made]
    BackupFolder(ward.backups).check(second.backup)


def test_a_backup_beside_a_training_has_all_that_its_journal_names(ward: Ward, tmp_path: Path) -> None:
    """A training that writes and sweeps all the time, as fast as it can."""
    done = threading.Event()

    def go_on() -> None:
        with Journal.open(ward.home / "trainings" / STUDY / "journal.jsonl") as journal:
            for number in range(2, 400):
                if done.is_set():
                    return
                digest = ward.store.put_weights({"w": torch.full((3,), float(number))})
                journal.append("aggregated", training="t", round=number, weights=digest)
                ward.store.sweep({digest}, open_rounds=[], min_age_s=0)
                done.wait(0.002)

    training = threading.Thread(target=go_on)
    training.start()
    try:
        for _ in range(5):
            made = back_up(ward.home, ward.coordinator, ward.backups).backup
            new = tmp_path / made.made
            restore(ward.backups, new, new / "federation")
            journal = new / "trainings" / STUDY / "journal.jsonl"
            verify(journal)
            last = [entry for entry in read(journal) if entry.event == "aggregated"][-1].data
            weights = FolderStore(new / "federation" / "stores" / STUDY).get(last["weights"])
            assert weights["w"].tolist() == [float(last["round"])] * 3
            shutil.rmtree(new)
    finally:
        done.set()
        training.join()
    assert not (ward.coordinator / ".backup").exists()


def test_a_backup_into_the_home_itself_is_refused(ward: Ward) -> None:
    with pytest.raises(StorageError, match="in the home itself"):
        back_up(ward.home, ward.coordinator, ward.home / "backups")


def test_for_docker_it_says_how_the_databases_are_dumped(wardround: Run, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    wardround("coordinator", "init", "--federation", STUDY, "--name", "gateway.example.org", "--folder", str(folder))
    done = wardround(
        "coordinator", "backup", str(tmp_path / "b"), "--folder", str(folder), "--home", str(folder / "home")
    )
    assert done.code == 0, done.err
    assert "docker compose exec -T postgresql pg_dumpall -U postgres" in " ".join(done.out.split())
    new = tmp_path / "new"
    restored = wardround(
        "coordinator", "restore", str(tmp_path / "b"), "--folder", str(new), "--home", str(new / "home")
    )
    assert restored.code == 0, restored.err
    kept = ("compose.yaml", ".env", "databases/gateway.pgpass", "gateway/secrets/ca.key", "secrets/signing.key")
    assert [(new / name).read_bytes() for name in kept] == [(folder / name).read_bytes() for name in kept]
    for name in ("postgresql/data", "home/federation", "exchange"):  # Docker would make them as root's
        assert list((new / name).iterdir()) == []
