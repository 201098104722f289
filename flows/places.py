"""The places of a machine where a piece of work is done: one at a time at each, first come, first served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(eq=False)
class Place:
    """Where one piece of work at a time is done; `gpu` as CUDA names it, None for a machine without."""

    number: int
    gpu: str | None
    busy: bool = False


class Places:
    """The places, who stays at which, and who waits.

    Args:
        gpus: Of the machine; without one it is a single place.

    Guarantees:
        A study stays at the place it has until it is forgotten. One that has none gets the first that is free: of
        several the one where the fewest studies stay. Of those that a free place suits, the first that came has it.
    """

    def __init__(self, gpus: Sequence[str]) -> None:
        self._places = [Place(number, gpu) for number, gpu in enumerate(gpus)] or [Place(0, None)]
        self._at: dict[str, Place] = {}
        self._queue: list[tuple[str, asyncio.Future[Place]]] = []

    async def take(self, study: str) -> Place:
        """Wait for a place, and have it to oneself until `give_back`."""
        granted: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._queue.append((study, granted))
        self._grant()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._queue.remove((study, granted))
            else:  # it was granted in the very moment
                self.give_back(granted.result())
            raise

    def give_back(self, place: Place) -> None:
        """Let the next one have a place."""
        place.busy = False
        self._grant()

    def forget(self, study: str) -> None:
        """Let a study take any place the next time."""
        self._at.pop(study, None)

    def _grant(self) -> None:
        """Give places that are free to those that wait."""
        for study, granted in list(self._queue):
            place = self._free_for(study)
            if place is not None and not granted.done():
                place.busy, self._at[study] = True, place
                self._queue.remove((study, granted))
                granted.set_result(place)

    def _free_for(self, study: str) -> Place | None:
        """Return the place that a study may have now."""
        studies = Counter(place.number for place in self._at.values())
        suitable = [self._at[study]] if study in self._at else self._places
        free = [place for place in suitable if not place.busy]
        return min(free, key=lambda place: (studies[place.number], place.number), default=None)
