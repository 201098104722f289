"""Bells: a worker that waits at the gateway is woken in some hundredths of a second, whichever gateway it waits at."""

from __future__ import annotations

import asyncio

from starlette.concurrency import run_in_threadpool

from components.gateway.grants import Grants

_LOOK_S = 0.03


class Bells:
    """The bells of one gateway process: one look at the database serves all who wait.

    Args:
        grants: Where the bells are rung.
    """

    def __init__(self, grants: Grants) -> None:
        self.closing = False
        self._grants = grants
        self._waiting = 0
        self._looked = asyncio.Condition()
        self._counts: dict[str, int] = {}

    async def count(self, site: str) -> int:
        """Return how often a site's bell was rung so far."""
        return (await run_in_threadpool(self._grants.rung)).get(site, 0)

    async def wait(self, site: str, rung: int, seconds: float) -> None:
        """Wait until a bell was rung more often than `rung`, the gateway closes, or the time is over."""
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds), self._looked:
                await self._looked.wait_for(lambda: self.closing or self._counts.get(site, 0) > rung)
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    async def watch(self) -> None:
        """Look at the database while somebody waits, until the gateway closes."""
        while not self.closing:
            await asyncio.sleep(_LOOK_S)
            if not self._waiting:
                continue
            counts = await run_in_threadpool(self._grants.rung)
            if counts != self._counts:
                self._counts = counts
                async with self._looked:
                    self._looked.notify_all()

    async def close(self) -> None:
        """Let everybody go who waits."""
        self.closing = True
        async with self._looked:
            self._looked.notify_all()
