"""What a driver that was killed has left behind the gateway: work that is still asked for, weights still published."""

from __future__ import annotations

from collections.abc import Mapping

from components.ledger import TrainingLedger
from flows.coordinator import CoordinatorSide


def take_back(side: CoordinatorSide, training: str) -> None:
    """Ask nothing more for a training; what was delivered for it and nobody took is dropped."""
    for slot in side.grants.close_training(training):
        side.sealed.discard(slot)


def take_back_abandoned(side: CoordinatorSide, found: Mapping[str, TrainingLedger], going_on: str | None) -> None:
    """Take back what a study's trainings asked for that were killed and are not taken up again.

    Args:
        side: The coordinator's side.
        found: The study's trainings.
        going_on: The one that is taken up; None if none is.
    """
    for name, ledger in found.items():
        if name != going_on and ledger.finished is None:
            take_back(side, name)


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
