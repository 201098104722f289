"""Which version carries which alias, by rule.

``latest``
    MLflow's own, reserved word: always the highest version, so it moves the moment a round is registered.
``best``
    The best version of the training that runs, by the metric its convergence is judged by.
``champion``
    What is meant to be used. Moves at the end of a training, to its best version, if there is no champion
    yet or the best version beats the incumbent on the same evaluation data; otherwise it stays, and the
    reason is kept as a tag of the best version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.errors import ServiceError
from components.tracking import tags as names
from components.tracking.registry import RegisteredVersion, Registry

BEST, CHAMPION, LATEST = "best", "champion", "latest"
Mode = Literal["max", "min"]


@dataclass(frozen=True)
class AliasDecision:
    """Where an alias stands, and why.

    Attributes:
        version: The version that carries the alias now; None if none does.
        moved: Whether it was moved just now.
        reason: For the run's record and the user.
    """

    version: int | None
    moved: bool
    reason: str


def decide_best(
    candidate: RegisteredVersion, incumbent: RegisteredVersion | None, *, metric: str, mode: Mode
) -> tuple[bool, str]:
    """Tell whether the candidate is to be the best of its training.

    Args:
        candidate: A version just registered.
        incumbent: The version that carries ``best``; of this training or an earlier one.
        metric: Whose value counts.
        mode: Which direction is better.

    Returns:
        Whether the alias moves, and why. Of equals the earlier version keeps it.
    """
    value = candidate.metrics.get(metric)
    if value is None:
        return False, f"version {candidate.version} has no {metric}"
    if incumbent is None or incumbent.tags.get(names.TRAINING) != candidate.tags.get(names.TRAINING):
        return True, f"first version of this training with a {metric} ({value:.4f})"
    held = incumbent.metrics.get(metric)
    if held is None or _better(value, held, mode):
        return True, f"{metric} {value:.4f} beats {_shown(held)} of version {incumbent.version}"
    return False, f"{metric} {value:.4f} does not beat {held:.4f} of version {incumbent.version}"


def decide_champion(
    candidate: RegisteredVersion, incumbent: RegisteredVersion | None, *, metric: str, mode: Mode
) -> tuple[bool, str]:
    """Tell whether a training's best version is to be champion.

    Values are compared only where both were measured on the same data: a higher number on an easier
    test set is no better model.
    """
    if incumbent is None:
        return True, "there was no champion yet"
    if incumbent.version == candidate.version:
        return False, "it is the champion already"
    data = candidate.tags.get(names.EVALUATION_DATA)
    if not data or incumbent.tags.get(names.EVALUATION_DATA) != data:
        return (
            False,
            f"champion version {incumbent.version} was evaluated on other data; compare them in MLflow, and move the "
            "alias champion there if this one is better",
        )
    value, held = candidate.metrics.get(metric), incumbent.metrics.get(metric)
    if value is None or held is None:
        return False, f"{metric} is not recorded for both this version and champion version {incumbent.version}"
    if _better(value, held, mode):
        return True, f"{metric} {value:.4f} beats {held:.4f} of version {incumbent.version}"
    return False, f"{metric} {value:.4f} does not beat {held:.4f} of champion version {incumbent.version}"


def move_best(registry: Registry, candidate: RegisteredVersion, *, metric: str, mode: Mode) -> AliasDecision:
    """Move ``best`` to a version just registered, if it is; may be repeated."""
    incumbent = registry.get_alias(candidate.name, BEST)
    moves, reason = decide_best(candidate, incumbent, metric=metric, mode=mode)
    if moves:
        registry.set_alias(candidate.name, BEST, candidate.version)
        return AliasDecision(candidate.version, moved=True, reason=reason)
    return AliasDecision(incumbent.version if incumbent else None, moved=False, reason=reason)


def move_champion(
    registry: Registry, name: str, *, training: str, metric: str, mode: Mode, objection: str = ""
) -> AliasDecision:
    """Move ``champion`` at the end of a training, if its best version has earned it; may be repeated.

    Args:
        registry: The registry.
        name: Of the registered model.
        training: The training that ended.
        metric: Whose value counts.
        mode: Which direction is better.
        objection: Why the version may not become champion, whatever its metric; empty if it may.

    Returns:
        Who is champion now, and why. The reason is also kept as a tag of the best version.

    Raises:
        ServiceError: If the training has no best version.
    """
    candidate = registry.get_alias(name, BEST)
    if candidate is None or candidate.tags.get(names.TRAINING) != training:
        raise ServiceError(f"training {training} has no version that carries {name}@{BEST}; register its rounds first")
    incumbent = registry.get_alias(name, CHAMPION)
    moves, reason = decide_champion(candidate, incumbent, metric=metric, mode=mode)
    if moves and objection:
        moves, reason = False, objection
    if moves:
        registry.set_alias(name, CHAMPION, candidate.version)
    elif incumbent is not None and incumbent.version == candidate.version:
        return AliasDecision(incumbent.version, moved=False, reason=reason)
    registry.set_tag(candidate, names.CHAMPION, f"{'yes' if moves else 'no'}: {reason}")
    version = candidate.version if moves else incumbent.version if incumbent else None
    return AliasDecision(version, moved=moves, reason=reason)


def _better(value: float, held: float, mode: Mode) -> bool:
    """Whether `value` is strictly better."""
    return value > held if mode == "max" else value < held


def _shown(value: float | None) -> str:
    """A value for a sentence."""
    return "nothing recorded" if value is None else f"{value:.4f}"
