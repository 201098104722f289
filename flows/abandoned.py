"""What a driver that was killed has left behind the gateway: work that is still asked for, weights still published."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from flows.coordinator import CoordinatorSide


def take_back(side: CoordinatorSide, training: str) -> None:
    """Ask nothing more for a training; what was delivered for it and nobody took is dropped."""
    for slot in side.grants.close_training(training):
        side.sealed.discard(slot)


def preparing(study: str) -> str:
    """Return what the identifiers begin with under which a study's drivers ask before a training has one.

    Where a driver was killed meanwhile, what is asked under them is taken back by the next start.
    """
    return f"prepare-{hashlib.sha256(study.encode()).hexdigest()[:16]}-"


def take_back_abandoned(side: CoordinatorSide, study: str, found: Collection[str], going_on: str | None) -> None:
    """Take back what a study's drivers asked for that were killed, as far as it is not taken up again.

    Args:
        side: The coordinator's side.
        study: The study. Only one process drives it, and it has asked for nothing yet.
        found: The study's trainings, by name.
        going_on: The one that is taken up; None if none is.
    """
    for name in side.grants.open_trainings():
        if name != going_on and (name in found or name.startswith(preparing(study))):
            take_back(side, name)
    if going_on is not None:
        _close_used(side, study, going_on)
    if not side.keep_sealed:
        _sweep(side, study, found, going_on)


def _close_used(side: CoordinatorSide, study: str, training: str) -> None:
    """Close the slots whose updates are in the store already: nobody would take them a second time."""
    from components.exchange.store import Slot  # torch, which the coordinator's server does without

    store = side.store(study)
    for slot in side.sealed.slots(training):
        if slot.kind == "train" and store.slot_answer(Slot(training, slot.round, slot.attempt, slot.site)) is not None:
            side.grants.close_slot(slot)


def _sweep(side: CoordinatorSide, study: str, found: Collection[str], going_on: str | None) -> None:
    """Drop what was delivered and used, where a driver was killed before it had tidied up."""
    preparations = (folder.name for folder in side.sealed.root.glob(f"{preparing(study)}*"))
    for training in (*found, *preparations):
        if training != going_on:
            side.sealed.discard_training(training)
    if going_on is not None:
        side.sealed.sweep(going_on, lambda slot: side.grants.open_bytes(slot) is not None)


def unpublish_leftovers(side: CoordinatorSide, study: str) -> None:
    """Withdraw weights that a driver of this study published and was killed over.

    Only one process drives a study, and it has published nothing yet. Weights lie in the exchange as links to their
    study's store; those that no store has any more are nobody's.
    """
    for shared in (side.exchange / "objects").glob("*.safetensors"):
        own = side.store(study).path(shared.stem)
        if shared.stat().st_nlink == 1 or (own.exists() and own.samefile(shared)):
            side.grants.forbid(shared.stem)
            shared.unlink(missing_ok=True)
