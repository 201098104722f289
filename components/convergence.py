"""When a training has converged: pure functions of the metric's history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.study import Convergence


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        best_round: Round with the best value so far; 0 before the first.
        best_value: Its value; None before the first.
        rounds_without_improvement: Rounds since an improvement of at least `min_delta`.
        converged: Whether patience is used up.
    """

    best_round: int = 0
    best_value: float | None = None
    rounds_without_improvement: int = 0
    converged: bool = False


def assess(history: Mapping[int, float | None], convergence: Convergence | None) -> Progress:
    """Judge a history of the watched metric.

    Args:
        history: Value by round; None where the metric was not defined (one class only).
        convergence: The study's rule; None compares by the default rule and never stops.

    Returns:
        The best round (the earliest of equals, exactly compared) and whether to stop. `min_delta`
        decides what resets the patience, not what is best.

    >>> assess({1: 0.7, 2: 0.8, 3: 0.8}, Convergence(patience=1)).converged
    True
    >>> assess({1: 0.7, 2: 0.8, 3: 0.8}, Convergence(patience=1)).best_round
    2
    """
    rule = convergence or Convergence()
    sign = 1.0 if rule.mode == "max" else -1.0
    best_round, best_value, reference, waiting = 0, None, None, 0
    for number in sorted(history):
        value = history[number]
        if value is not None and (best_value is None or sign * value > sign * best_value):
            best_round, best_value = number, value
        improved = value is not None and (reference is None or sign * (value - reference) >= max(rule.min_delta, 1e-12))
        reference, waiting = (value, 0) if improved else (reference, waiting + 1)
    return Progress(best_round, best_value, waiting, convergence is not None and waiting >= rule.patience)
