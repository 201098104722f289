"""What is done one after the other, by name, so that others can show it without having a part in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Steps:
    """Steps of some work; who drives it does them, who shows it follows them.

    Args:
        stages: Names of the steps. Those of one stage are done side by side, the stages one after the other.
    """

    def __init__(self, stages: Sequence[Sequence[str]]) -> None:
        self.stages = [list(stage) for stage in stages if stage]
        loop = asyncio.get_running_loop()
        self._results: dict[str, asyncio.Future[Any]] = {
            name: loop.create_future() for stage in self.stages for name in stage
        }
        self._begun: set[str] = set()
        self._news = asyncio.Event()
        self._over: asyncio.Future[None] = loop.create_future()

    async def do(self, name: str, work: Awaitable[T]) -> T:
        """Do a step; what it returns or raises is told to all who follow it."""
        self._begun.add(name)
        self._tell()
        try:
            found = await work
        except Exception as error:
            _fail(self._results[name], error)
            raise
        self._results[name].set_result(found)
        return found

    async def reached(self, stage: Sequence[str]) -> bool:
        """Wait until a stage is begun, or all is over; return whether it was begun."""
        while self._begun.isdisjoint(stage) and not self._over.done():
            await self._news.wait()
        return not self._begun.isdisjoint(stage)

    async def follow(self, name: str) -> Any:
        """Wait for a step; return or raise what it came to, or why it was not reached."""
        return await asyncio.shield(self._results[name])

    def end(self, error: Exception | None = None) -> None:
        """Say that no further step is done, and why if one was still to come."""
        for result in (*self._results.values(), self._over):
            if not result.done() and error is not None:
                _fail(result, error)
        if error is None:
            self._over.set_result(None)
        self._tell()

    async def over(self) -> None:
        """Wait for the end; raise what it ended by, if that was an error."""
        await asyncio.shield(self._over)

    def _tell(self) -> None:
        """Wake who waits for a stage."""
        self._news.set()
        self._news = asyncio.Event()


def _fail(result: asyncio.Future[Any], error: Exception) -> None:
    result.set_exception(error)
    result.exception()  # that nobody follows is no complaint of asyncio's
