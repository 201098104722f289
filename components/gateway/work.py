"""What the coordinator asks of a site: the question is held open until there is something new."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from components.gateway.bells import Bells
from components.gateway.claims import Claims
from components.gateway.endpoints import Endpoint, answer_with, caller_of
from components.gateway.grants import Grants
from components.gateway.records import Work
from components.gateway.refusals import RefusalError
from components.gateway.settings import Settings
from components.gateway.slots import SealedSlots

_COUNT = re.compile(r"0|[1-9][0-9]{0,15}", flags=re.ASCII)
_LOOK_AGAIN_S = 0.5  # whether the other end still waits


class WorkList:
    """The route of the work.

    Args:
        settings: Of the gateway.
        grants: What was asked.
        claims: Who has taken it up.
        bells: What wakes who waits.
    """

    def __init__(self, settings: Settings, grants: Grants, claims: Claims, bells: Bells) -> None:
        self._hold_s, self._grants, self._claims, self._bells = settings.hold_s, grants, claims, bells
        self._slots = SealedSlots(settings.exchange / "sealed")

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The route."""
        return [Endpoint("GET", "/v1/work", self.work)]

    async def work(self, request: Request) -> Response:
        """Return the caller's work; with ``?rung=N``, once its bell was rung more often than N times."""
        known = request.query_params.get("rung", "0")
        if not _COUNT.fullmatch(known) or set(request.query_params) - {"rung"}:
            raise RefusalError(400, "a question for work with another query")
        site, rung = caller_of(request).site, 0
        loop = asyncio.get_running_loop()
        end = loop.time() + self._hold_s
        while True:
            rung = await self._bells.count(site)
            left_s = end - loop.time()
            if rung != int(known) or left_s <= 0 or self._bells.closing:
                break
            await self._bells.wait(site, rung, min(left_s, _LOOK_AGAIN_S))
            if await request.is_disconnected():
                await run_in_threadpool(self._claims.hung_up, site)
                return answer_with(Work(rung=rung, items=[]))  # to nobody
        return answer_with(await run_in_threadpool(self._open_work, site, rung))

    def _open_work(self, site: str, rung: int) -> Work:
        """Return what is asked and not answered yet; from now on the caller has claimed it."""
        items = [item for item in self._grants.work(site) if self._slots.envelope(item.slot) is None]
        if items:
            self._claims.take(site, [item.slot for item in items])
        return Work(rung=rung, items=items)
