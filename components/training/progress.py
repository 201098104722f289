"""How far a training is, told while it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

EVERY_S = 0.5


@dataclass(frozen=True)
class Pace:
    """How far a training is.

    Attributes:
        epoch: The pass over the items that it is in, counted from 1, of `epochs`.
        share: How much of that pass is done, above 0 and up to 1.
        left_s: Seconds until it is done, if it goes on as it did so far.
    """

    epoch: int
    epochs: int
    share: float
    left_s: float


Tell = Callable[[Pace], None]


def pace(done: int, *, batches: int, total: int, elapsed_s: float) -> Pace:
    """Return how far a training is after so many batches.

    Args:
        done: Batches trained on, 1 or more.
        batches: Batches in one pass.
        total: Batches of the whole training.
        elapsed_s: Seconds since it began.

    >>> pace(7, batches=4, total=20, elapsed_s=14.0)
    Pace(epoch=2, epochs=5, share=0.75, left_s=26.0)
    """
    return Pace(
        epoch=(done - 1) // batches + 1,
        epochs=math.ceil(total / batches),
        share=((done - 1) % batches + 1) / batches,
        left_s=elapsed_s / done * max(total - done, 0),
    )


class Teller:
    """Tells how far a training is, after its first batch and then at most every `EVERY_S` seconds.

    It counts batches as they are handed to the device and reads nothing from it, so that a GPU never waits. It is no
    callback of its own: Lightning spends a few hundred microseconds a step on each.

    Args:
        tell: Is called in the thread that trains; it must return at once and raise nothing.
        batches: Batches in one pass.
        total: Batches of the whole training, which begins now.
    """

    def __init__(self, tell: Tell, *, batches: int, total: int) -> None:
        self._tell, self._batches, self._total = tell, batches, total
        self._done, self._began, self._due = 0, time.monotonic(), 0.0

    def count(self) -> None:
        """Count a batch, and tell if it is time."""
        self._done += 1
        now = time.monotonic()
        if now >= self._due:
            self._due = now + EVERY_S
            self._tell(pace(self._done, batches=self._batches, total=self._total, elapsed_s=now - self._began))
