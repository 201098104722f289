"""The Prefect worker of a hospital: it polls its own pool and does the site's work, and nothing else.

    python -m flows.hospital_process FOLDER       (Prefect's own command cannot show the gateway a credential)

It takes from the server *which* request waits for it and nothing more (`flows.closed_worker`). What a request may be
stands in a closed table (`components.exchange.site_request`), the work is done by this installation's
own code, and a run that carries anything else is refused, journalled and marked ``Refused``.

It loads without torch: Prefect imports it through the entry point ``prefect.collections``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Running

from components.errors import RefusedError, WardRoundError, fit_to_leave
from components.exchange.site_request import AnyRequest, read_request
from components.governance.identity_files import SiteFolder
from components.redaction import redact
from flows.closed_worker import ClosedWorker
from flows.hospital_client import connected, patiently

TYPE = "hospital"
SHOWN_AFTER_S = 1.0


class SiteWork(Protocol):
    """What a worker works for: the site on this machine."""

    @property
    def site(self) -> str:
        """Name of the site; its pool has the same."""
        ...

    async def carry_out(self, request: AnyRequest) -> str:
        """Do what is asked and deliver it; return one line for the coordinator."""
        ...

    def refused(self, run: str, reason: str) -> None:
        """Record that a run was refused."""
        ...


class HospitalWorker(ClosedWorker):
    """Does one site's work, as its pool has it.

    Guarantees:
        No code, command, variable, path or block that the server names is used. A pool of another type,
        or one whose template sets anything, is refused, and so is each run of it.
    """

    type: ClassVar[str] = TYPE  # type: ignore[misc]
    _description = "Does the site flows of WardRound at a hospital, and nothing else."
    _display_name = "Hospital"

    work: SiteWork | None = None
    # How Prefect is reached while it works; through the site's gateway unless the site's work was given to it.
    connect: Callable[[], AbstractAsyncContextManager[None]] | None = None

    async def start(
        self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print
    ) -> None:
        """See Prefect; all of it through the gateway of the site, if it has one.

        Raises:
            WardRoundError: If this machine has no enrolled site, or another than the pool's.
        """
        self._open()
        async with (self.connect or nullcontext)():
            await super().start(run_once, with_healthcheck, printer)

    async def setup(self) -> None:
        """See Prefect; without a site there is nothing to work for.

        Raises:
            WardRoundError: If this machine has no enrolled site, or another than the pool's.
        """
        self._open()
        await super().setup()

    def _open(self) -> None:
        """Open this machine's site."""
        if self.work is None:
            folder = hospital_folder()
            self.work, self.connect = _open_site(folder), partial(connected, SiteFolder(folder))
        if self.work.site != self._work_pool_name:
            raise RefusedError(
                f"this machine is {self.work.site}; it does not work for the pool {self._work_pool_name}"
            )

    def _ensure_worker_channel(self) -> None:
        """See Prefect; without an address there is no websocket, and the worker syncs and beats by request."""
        with temporary_settings({PREFECT_API_URL: None}):
            super()._ensure_worker_channel()

    async def _emit_worker_started_event(self) -> None:
        """Send no event, here and below: they go by websocket. Without the first, Prefect sends no last one."""

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """See Prefect."""
        return await patiently(super().get_and_submit_flow_runs)

    async def sync_with_backend(self) -> None:
        """See Prefect."""
        await patiently(super().sync_with_backend)

    async def carry_out(self, flow_run: FlowRun) -> State[Any]:
        """Do the site's work, or refuse it; return the state the run ends in."""
        assert self.work is not None  # since setup
        try:
            await self._check(flow_run)
            request = read_request(flow_run.parameters, site=self.work.site)
        except RefusedError as error:
            self.work.refused(str(flow_run.id), str(error))
            reason = redact(str(error), keep=[self.work.site])
            return Failed(name="Refused", message=f"refused by {self.work.site}: {reason}")
        running = asyncio.ensure_future(self._show_running(flow_run))
        try:
            return Completed(message=await self.work.carry_out(request))
        except Exception as error:
            if not isinstance(error, RefusedError):  # its message may hold a path or a patient's name: it stays here
                self._logger.exception("A site's work ended with an error")
            return Failed(message=redact(fit_to_leave(error), keep=[self.work.site]))
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _show_running(self, flow_run: FlowRun) -> None:
        """Say that a run is under way, if it does not end at once."""
        await asyncio.sleep(SHOWN_AFTER_S)
        await self._propose(Running(), flow_run)


def hospital_folder() -> Path:
    """Return the folder of this machine's hospital, as ``WARDROUND_HOSPITAL`` names it.

    Raises:
        WardRoundError: If it names none.
    """
    folder = os.environ.get("WARDROUND_HOSPITAL", "")
    if not folder:
        raise WardRoundError("WARDROUND_HOSPITAL names no folder of an enrolled hospital")
    return Path(folder)


def _open_site(folder: Path) -> SiteWork:
    """Open the site of a folder.

    Raises:
        WardRoundError: If there is none.
    """
    from flows.hospital import open_site  # the site's own parts, only where there is a site

    return open_site(folder)
