"""Files that are damaged where they lie: found, named, mended where they can be, and never used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.faults.trained import Disturbed, Trained
from tests.end_to_end.loopback import stopped

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]
SITE = "site-2"


def flip(path: Path) -> None:
    """Change the last byte of a file, in its place."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def exchange(row: Disturbed) -> Path:
    return row.ward.home / "federation" / "exchange"


def test_a_sealed_update_that_is_damaged_is_asked_for_again(trained: Trained) -> None:
    ward = trained.ward
    with trained.disturbed() as row:
        ward.until(lambda: ward.at(SITE, "plan_accepted", training=row.training))
        with stopped(row.train.pid):
            sealed = exchange(row) / "sealed" / row.training
            payload = ward.until(lambda: next(iter(sealed.glob(f"*/1/train/{SITE}/envelope.json")), None))
            row.strike()
            flip(payload.with_name("payload"))
        number = int(payload.parts[-5])
        (refused,) = row.notice(lambda: row.events("update_refused", round=number, site=SITE))
        assert "was changed, cut or put together" in refused.data["reason"]
        row.go_on()
        row.end()
    assert [e.data["attempt"] for e in row.events("asked_again", site=SITE)] == [2]
    row.record("a sealed update damaged behind the gateway", "an update is there")


def test_a_stored_update_that_is_damaged_before_a_resume_is_asked_for_again(trained: Trained) -> None:
    ward = trained.ward
    with trained.disturbed() as row:
        with killed_while_waiting_for(row, "site-3"):
            files = list(stored(row, 2, SITE))
            assert files
            row.strike()
            flip(files[0])
        with ward.running("train", str(ward.study)) as train:
            row.notice(lambda: row.events("update_lost", round=2, site=SITE) or train.poll() is not None)
            row.go_on()
            row.end(train)
    assert "hashes to" in row.events("update_refused", round=2, site=SITE)[0].data["reason"]
    row.record("an update damaged in the coordinator's store, and the training resumed", "an update is there")


def test_weights_of_the_store_that_are_damaged_before_a_resume_are_aggregated_again(trained: Trained) -> None:
    """Of the round's updates, which stay until it is committed."""
    ward = trained.ward
    with trained.disturbed() as row:
        row.reach("aggregated")
        row.train.kill()
        row.train.wait()
        digest = row.events("aggregated", round=2)[0].data["state"]["weights"]
        path = ward.home / "federation" / "stores" / ward.name / "objects" / f"{digest}.safetensors"
        row.strike()
        flip(path)
        with ward.running("train", str(ward.study)) as train:
            row.notice(lambda: row.events("weights_mended", round=2, weights=digest) or train.poll() is not None)
            row.go_on()
            row.end(train)
    row.record("aggregated weights damaged in the coordinator's store, and the training resumed", "aggregated")


def test_published_weights_that_are_damaged_are_written_again(trained: Trained) -> None:
    """In the file that gateway and store share, while a hospital has still to fetch it."""
    with trained.disturbed() as row:
        with row.asleep(SITE):
            wait_for_the_others(row, SITE)
            row.ward.until(lambda: row.events("committed", round=1))  # read for their version before
            digest = row.events("round_planned", round=2)[0].data["plan"]["base_digest"]
            published = exchange(row) / "objects" / f"{digest}.safetensors"
            for kept in row.ward.hospital(SITE).rglob(published.name):  # of the undisturbed training, the same weights
                kept.unlink()
            row.strike()
            flip(published)
        row.notice(lambda: row.events("weights_mended", round=2, weights=digest))
        row.go_on()
        row.end()
    (refused,) = row.events("update_refused", round=2, site=SITE)
    assert "was changed or damaged" in refused.data["reason"]
    row.record("published weights damaged before a hospital fetched them", "asked")


def test_a_model_that_is_damaged_in_mlflow_is_not_predicted_with_and_costs_no_training(trained: Trained) -> None:
    ward = trained.ward
    version = ward.events("committed", training=trained.latest())[-1].data["version"]
    found = [path for path in ward.home.rglob("weights.safetensors") if path.is_file()]
    assert found
    kept = {path: path.read_bytes() for path in found}
    try:
        with trained.disturbed() as row:
            row.strike()
            for path in found:
                flip(path)
            films = str(ward.study.parent / "films.npz")
            said = ward.run("predict", f"models:/{ward.name}/{version}", films, check=False)
            row.notice(lambda: said.returncode == 6)
            assert "not what was registered" in said.stderr
            row.go_on()
            row.end()
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    row.record("all models damaged in MLflow's files", "always")


def wait_for_the_others(row: Disturbed, site: str) -> None:
    """Wait until all hospitals but one have delivered in round 2."""
    others = set(row.ward.sites) - {site}
    row.ward.until(lambda: {e.data["site"] for e in row.events("update_received", round=2)} >= others)


def stored(row: Disturbed, number: int, site: str) -> Iterator[Path]:
    """Return the opened updates of a site in the coordinator's store."""
    slots = row.ward.home / "federation" / "stores" / row.ward.name / "slots" / row.training
    return slots.glob(f"{number}/*/{site}/*.safetensors")


@contextmanager
def killed_while_waiting_for(row: Disturbed, site: str) -> Iterator[None]:
    """Kill the training in its second round when it has all updates but one; that one comes afterwards."""
    with row.asleep(site):
        wait_for_the_others(row, site)
        row.train.kill()
        row.train.wait()
        yield
