"""Checks of hyper-parameters: each names the argument and the value it was given."""

from __future__ import annotations

import math
from typing import get_args

from components.strategies.base import Weighting


def require_number(name: str, value: object) -> float:
    """Return `value` if it is a finite number (and not a truth value).

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, given {value!r}")
    return float(value)


def require_positive(name: str, value: object) -> None:
    """Refuse what is not above zero.

    Raises:
        ValueError: If it is not.
    """
    if require_number(name, value) <= 0:
        raise ValueError(f"{name} must be above 0, given {value!r}")


def require_not_negative(name: str, value: object) -> None:
    """Refuse what is below zero.

    Raises:
        ValueError: If it is.
    """
    if require_number(name, value) < 0:
        raise ValueError(f"{name} must be 0 or more, given {value!r}")


def require_decay(name: str, value: object) -> None:
    """Refuse what is not in [0, 1).

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= require_number(name, value) < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, given {value!r}")


def require_weighting(value: object) -> None:
    """Refuse what is not one of `Weighting`.

    Raises:
        ValueError: If it is not.
    """
    if value not in get_args(Weighting):
        raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, given {value!r}")
