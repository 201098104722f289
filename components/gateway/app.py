"""The gateway's application: the routes behind the door, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from components.errors import WardRoundError
from components.gateway.bells import Bells
from components.gateway.claims import Claims
from components.gateway.database import Database
from components.gateway.door import Door, note
from components.gateway.grants import Grants
from components.gateway.identity import Identities
from components.gateway.members import Members
from components.gateway.parcels import Parcels
from components.gateway.prefect_proxy import PrefectProxy, PrefectRoute
from components.gateway.refusals import RefusalError, refusal_of
from components.gateway.settings import Settings
from components.gateway.sites import Sites
from components.gateway.work import WorkList

log = logging.getLogger("wardround.gateway")

_SWEEP_S = 600.0


class Gateway:
    """One gateway: its application, and what runs beside it.

    Args:
        settings: What it is told.
        database: Its state.
        prefect_routes: What is let through to Prefect.

    Attributes:
        app: The ASGI application.
    """

    def __init__(self, settings: Settings, database: Database, prefect_routes: Sequence[PrefectRoute] = ()) -> None:
        self._sites = Sites(database)
        grants = Grants(database)
        self._bells = Bells(grants)
        self._proxy = PrefectProxy(
            settings.prefect_url, settings.prefect_auth, prefect_routes if settings.prefect_url else (),
            hold_s=settings.hold_s,
        )  # fmt: skip
        work = WorkList(settings, grants, Claims(database), self._bells)
        parts = (Members(settings, database), Parcels(settings, database), work, self._proxy)
        endpoints = [endpoint for part in parts for endpoint in part.endpoints]
        inner = FastAPI(
            routes=[endpoint.route for endpoint in endpoints],
            openapi_url=None,
            redirect_slashes=False,
            lifespan=self._run,
            exception_handlers={
                RefusalError: _refuse,
                WardRoundError: _refuse,
                HTTPException: _nothing_here,
                Exception: _break,
            },
        )
        authority = (settings.secrets / "ca.pem").read_bytes()
        identities = Identities(self._sites, authority)
        self.app = Door(inner, [e.entrance for e in endpoints], identities, limits=settings.limits, clock=database.now)

    async def let_go(self) -> None:
        """Let everybody go who waits for work, so that the gateway can end."""
        self._proxy.let_go()
        await self._bells.close()

    @asynccontextmanager
    async def _run(self, _app: FastAPI) -> AsyncIterator[None]:
        """Run what runs beside the application."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._proxy.close)
            for work in (self._bells.watch, self._sweep):
                task = asyncio.create_task(_keep_going(work))
                stack.push_async_callback(_end, task)
            yield

    async def _sweep(self) -> None:
        """Forget what has expired, now and then."""
        while True:
            await run_in_threadpool(self._sites.sweep)
            await asyncio.sleep(_SWEEP_S)


async def _keep_going(work: Callable[[], Awaitable[None]]) -> None:
    """Do something for ever; a database that is away for a while ends nothing."""
    while True:
        try:
            await work()
            return
        except WardRoundError as error:
            log.warning("%s", error)
            await asyncio.sleep(1.0)


async def _end(task: asyncio.Task[None]) -> None:
    """End a task."""
    task.cancel()
    await asyncio.wait([task])


async def _refuse(request: Request, error: Exception) -> Response:
    """Refuse what a route refused, or what a disk or a server made impossible."""
    refusal = refusal_of(error)
    note(request.scope, refusal)
    return refusal.response()


async def _nothing_here(_request: Request, _error: Exception) -> Response:
    """Say that there is nothing, whatever the reason."""
    return RefusalError(404, "there is no such route").response()


async def _break(_request: Request, _error: Exception) -> Response:
    """Say nothing of an error of our own; uvicorn writes it into the log."""
    return RefusalError(500, "an error of the gateway's own").response()
