"""Since when something was not heard of, by this process's own clock."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Heard(Generic[Key]):
    """When each of several was last heard of.

    What others' clocks say is only compared with what they said before, except at first sight. While nobody could be
    heard, nobody grows silent.
    """

    def __init__(self) -> None:
        self._said: dict[Key, tuple[float, float]] = {}  # what a clock of another's said, and when that was seen here
        self._began = self._listened = time.monotonic()
        self._blind = False

    def note(self, said: Mapping[Key, float | None], seen_at: float) -> None:
        """Note what was said of each last, seconds since 1970; after a time of hearing nobody each has its time anew.

        Args:
            said: By what is listened to; None where it was never heard of. What is missing is forgotten.
            seen_at: When that was looked at, on this process's monotonic clock.
        """
        self._listened, known = seen_at, self._said
        self._said = {}
        for key, last in said.items():
            if last is None:
                continue
            if key in known and known[key][0] == last and not self._blind:
                self._said[key] = known[key]
                continue
            ago_s = 0.0 if key in known else max(time.time() - last, 0.0)
            self._said[key] = last, seen_at - ago_s
        self._blind = False

    def could_not(self) -> None:
        """Note that nobody could be heard."""
        self._blind = True

    def silent_s(self, key: Key) -> float:
        """Return for how many seconds something was not heard of, counted from the beginning if it never was."""
        return self._listened - (self._said[key][1] if key in self._said else self._began)
