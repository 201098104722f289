"""What a driver that was killed leaves behind the gateway is taken back by the study's next driver."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from components.exchange.store import FolderStore, Slot
from components.gateway.database import Database
from components.gateway.grants import Grants
from components.gateway.records import SlotKey
from components.gateway.slots import SealedSlots
from components.rounds import Answer
from flows.abandoned import preparing, take_back_abandoned
from flows.coordinator import CoordinatorSide


class Side:
    """The part of a coordinator's side that has what was asked and delivered."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.sealed, self.grants = SealedSlots(folder / "sealed"), Grants(database)
        self.kept = FolderStore(folder / "store")
        self.keep_sealed = False

    def ask(self, training: str, number: int = 1, kind: str = "train") -> SlotKey:
        """Open a slot, which is answered at once."""
        slot = SlotKey.model_validate(
            {"training": training, "round": number, "attempt": 1, "kind": kind, "site": "north"}
        )
        self.grants.open_slot(slot, max_bytes=1, request="{}")
        self.sealed.submit(slot, b"{}", sealed_sha256=None, sealed_bytes=None)
        return slot

    def store(self, _study: str) -> FolderStore:
        return self.kept

    def take(self, slot: SlotKey) -> None:
        """Keep an answer as a driver does before it closes the slot; of an update only that it came matters here."""
        answer = Answer(kind="train", site=slot.site, round=slot.round, nonce="0" * 32, status="failed", reason="none")
        self.kept.submit(Slot(slot.training, slot.round, slot.attempt, slot.site), answer)

    def take_back(self, *trainings: str, going_on: str | None = None) -> None:
        take_back_abandoned(cast(CoordinatorSide, self), "tiny", trainings, going_on)


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    database = Database(f"sqlite:///{tmp_path}/g.db")
    yield Side(tmp_path, database)
    database.close()


def test_what_a_training_asked_for_that_nobody_takes_up_is_taken_back(side: Side) -> None:
    slot = side.ask("tiny-1")
    side.take_back("tiny-1")
    assert side.grants.open_bytes(slot) is None
    assert side.sealed.envelope(slot) is None
    assert not (side.sealed.root / "tiny-1").exists()


def test_what_the_training_asked_for_that_goes_on_stays_and_what_was_used_goes(side: Side) -> None:
    used, wanted = side.ask("tiny-1", 1), side.ask("tiny-1", 2)
    side.grants.close_slot(used)  # killed before it was dropped
    side.take_back("tiny-1", going_on="tiny-1")
    assert side.sealed.envelope(used) is None
    assert side.sealed.envelope(wanted) == b"{}"
    assert side.grants.open_bytes(wanted) == 1


def test_an_update_that_was_taken_is_not_waited_for_again(side: Side) -> None:
    """Its driver was killed between the store and the slot's end."""
    taken, wanted = side.ask("tiny-1", 1), side.ask("tiny-1", 2)
    side.take(taken)
    side.take_back("tiny-1", going_on="tiny-1")
    assert (side.grants.open_bytes(taken), side.sealed.envelope(taken)) == (None, None)
    assert (side.grants.open_bytes(wanted), side.sealed.envelope(wanted)) == (1, b"{}")


def test_preparations_of_the_study_are_taken_back_and_no_others(side: Side) -> None:
    mine, other = side.ask(f"{preparing('tiny')}1", kind="prepare"), side.ask(f"{preparing('big')}1", kind="prepare")
    side.take_back()
    assert (side.grants.open_bytes(mine), side.sealed.envelope(mine)) == (None, None)
    assert (side.grants.open_bytes(other), side.sealed.envelope(other)) == (1, b"{}")


def test_evidence_that_is_to_be_kept_stays(side: Side) -> None:
    slot = side.ask("tiny-1")
    side.grants.close_slot(slot)
    side.keep_sealed = True
    side.take_back("tiny-1", going_on="tiny-1")
    assert side.sealed.envelope(slot) == b"{}"
