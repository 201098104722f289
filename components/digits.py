"""How numbers and their intervals are written for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

MOST = 7  # digits after the point


def number_text(value: float, digits: int) -> str:
    """Write a number with so many digits after the point; zero has no sign.

    >>> number_text(-0.004, 2), number_text(-0.006, 2)
    ('0.00', '-0.01')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval_text(low: float, high: float, digits: int = 2) -> str:
    """Write an interval; with a word between its ends, which may be negative.

    >>> interval_text(-1.314, -0.39)
    '-1.31 to -0.39'
    """
    return f"{number_text(low, digits)} to {number_text(high, digits)}"


def digits_apart(values: Iterable[float], none: float, least: int) -> int:
    """Return with how many digits after the point no number reads as if it were that of no effect.

    Args:
        values: The numbers; what is not finite is passed over.
        none: Where there is no effect: 1 of ratios, 0 of their logarithms.
        least: Digits to have anyway.

    >>> digits_apart([1.008, 1.00014, 1.016], 1, least=3), digits_apart([1.0, 2.0], 1, least=3)
    (4, 3)
    """
    gaps = [abs(value - none) for value in values if math.isfinite(value) and value != none]
    smallest = min(gaps, default=1.0)
    return next((digits for digits in range(least, MOST) if smallest >= 0.5 * 10.0**-digits), MOST)
