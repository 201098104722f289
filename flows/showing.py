"""Prefect follows what is done here, and may lag behind: how long it is waited for at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

SHOWN_WITHIN_S = 30.0  # without anything more shown


async def end_showing(showing: asyncio.Task[None], left: Callable[[], int], unshown: list[str]) -> None:
    """Let Prefect follow to the end, as long as it shows more and more of it.

    Args:
        showing: What shows it.
        left: How much is still to be shown.
        unshown: Takes why not all was shown.
    """
    before = left() + 1
    while not showing.done() and left() < before:
        before = left()
        await asyncio.wait([showing], timeout=SHOWN_WITHIN_S)
    if not showing.done():
        unshown.append(f"it did not answer for {SHOWN_WITHIN_S:.0f} s")
        showing.cancel()
    elif not showing.cancelled() and (error := showing.exception()) is not None:
        unshown.append(str(error))


async def state_of(run: Any) -> State[Any]:
    """Wait for a task's run; return the state it ended in."""
    state: State[Any] = await run
    return state
