"""How long a round waits for a site: learned from how long that site has taken, so that nobody has to guess."""

from __future__ import annotations

import math
from collections.abc import Sequence

QUANTILE, FACTOR = 0.9, 3.0
FLOOR_S = 30.0
RECENT = 20  # durations that count: a site's machine and data change over the months


def learned_deadline(durations: Sequence[float], *, cap_s: float, estimate_s: float | None = None) -> float:
    """Return how many seconds to wait for a site.

    Args:
        durations: Seconds the site took, from the order to its answer, the oldest first.
        cap_s: Longest that is waited; also where nothing is known.
        estimate_s: What the site's doctor expects of a round, for as long as there are no durations.

    Returns:
        `FACTOR` times the `QUANTILE` of the last `RECENT` durations, at least `FLOOR_S`, at most `cap_s`.

    >>> learned_deadline([10, 12, 60, 11], cap_s=3600)
    180.0
    >>> learned_deadline([0.2], cap_s=3600), learned_deadline([], cap_s=3600), learned_deadline([9e9], cap_s=3600)
    (30.0, 3600, 3600)
    """
    recent = sorted(durations[-RECENT:]) or ([] if estimate_s is None else [estimate_s])
    if not recent:
        return cap_s
    usual = recent[min(math.ceil(QUANTILE * len(recent)), len(recent)) - 1]
    return min(max(FACTOR * usual, FLOOR_S), cap_s)
