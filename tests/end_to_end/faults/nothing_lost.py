"""What must hold after a fault, whatever it was: one function, which every row of the fault table ends with."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Mapping

from mlflow import MlflowClient

from components.journal import verify
from flows.local_record import addresses
from tests.end_to_end.loopback import Loopback


def nothing_lost(ward: Loopback, training: str, undisturbed: Mapping[int, str]) -> None:
    """Compare a training that was disturbed, and has finished, with one that was not.

    Args:
        ward: The federation.
        training: Identifier of the training.
        undisturbed: Digest of the weights after each round, of the same study; rounds that are not in it may differ.
    """
    found = weights_of(ward, training)
    assert {number: found.get(number) for number in undisturbed} == undisturbed
    assert_every_round_once(ward, training)
    assert_versions_as_committed(ward, training)
    for path in (ward.home / "trainings" / ward.name, *map(ward.hospital, ward.sites)):
        assert verify(path / "journal.jsonl").entries
    left = left_behind(ward)
    assert not left, left  # said: this file's asserts are not rewritten


def weights_of(ward: Loopback, training: str) -> dict[int, str]:
    """Return the digest of the weights after each round of a training."""
    return {
        entry.data["round"]: entry.data["state"]["weights"] for entry in ward.events("aggregated", training=training)
    }


def assert_every_round_once(ward: Loopback, training: str) -> None:
    """No round is skipped or decided twice, no update counts twice, and no nonce is used again."""
    rounds = [entry.data["round"] for entry in ward.events("committed", training=training)]
    assert rounds == list(range(1, len(rounds) + 1))
    for event in ("aggregated", "evaluated"):
        assert [entry.data["round"] for entry in ward.events(event, training=training)] == rounds
    received = ward.events("update_received", training=training)
    counted = Counter((entry.data["round"], entry.data["site"]) for entry in received)
    counted.subtract(
        (entry.data["round"], entry.data["site"]) for entry in ward.events("update_lost", training=training)
    )
    assert max(counted.values()) == 1
    assert_once([entry.data["answer"]["nonce"] for entry in received])
    for site in ward.sites:
        delivered = [entry for entry in ward.at(site, "answer_delivered", training=training)]
        assert_once([entry.data["nonce"] for entry in delivered if entry.data["kind"] == "train"])


def assert_versions_as_committed(ward: Loopback, training: str) -> None:
    """The registry has each round of a training once, with the weights that the journal says."""
    found = addresses(ward.home)
    assert found is not None
    versions = [
        version
        for version in MlflowClient(found.mlflow, found.mlflow).search_model_versions(f"name='{ward.name}'")
        if version.tags["wardround.training"] == training
    ]
    registered = {int(version.tags["wardround.round"]): version for version in versions}
    assert len(registered) == len(versions)
    committed = {entry.data["round"]: entry.data["version"] for entry in ward.events("committed", training=training)}
    assert {number: int(version.version) for number, version in registered.items()} == committed
    digests = {number: version.tags["wardround.weights_digest"] for number, version in registered.items()}
    assert digests == weights_of(ward, training)


def left_behind(ward: Loopback) -> list[str]:
    """Return the files that nobody needs any more: sealed updates, and what was being written by whom was killed."""
    exchange = ward.home / "federation" / "exchange"
    outgoing = [path for site in ward.sites for path in (ward.hospital(site) / "outgoing").rglob("*")]
    return [str(path) for path in (*exchange.rglob("*"), *outgoing) if stat.S_ISREG(path.lstat().st_mode)]


def assert_once(items: list[object] | list[tuple[int, str]]) -> None:
    assert [item for item, times in Counter(items).items() if times > 1] == []
