"""The Prefect worker of a hospital: it polls its own pool and does the site's work, and nothing else.

    python -m flows.hospital_process FOLDER       (Prefect's own command cannot show the gateway a credential)

A stock worker does what the server tells it: a command, environment variables, an image, an entry point,
steps that pull code. This one takes from the server *which* request waits for it and nothing more. What a
request may be stands in a closed table (`components.exchange.site_request`), the work is done by this installation's
own code, and a run that carries anything else is refused, journalled and marked ``Refused``.

It loads without torch: Prefect imports it through the entry point ``prefect.collections``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import Abort, ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed, Running
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult

from components.errors import RefusedError, WardRoundError, fit_to_leave
from components.exchange.site_request import SiteRequest, read_request
from components.governance.identity_files import SiteFolder
from flows.hospital_client import connected, patiently

TYPE = "hospital"
SHOWN_AFTER_S = 1.0
DEPLOYMENT_KNOWN_S = 60.0  # nothing of it is used; whether it sets anything is looked at again after this long
# What a pool of this type looks like: nothing can be set, neither by a deployment nor by a run. (Prefect takes no
# template that is empty, hence the one line.)
EMPTY_TEMPLATE: dict[str, Any] = {
    "job_configuration": {"runs": "what this installation has, and nothing else"},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


class SiteWork(Protocol):
    """What a worker works for: the site on this machine."""

    @property
    def site(self) -> str:
        """Name of the site; its pool has the same."""
        ...

    async def carry_out(self, request: SiteRequest) -> str:
        """Do what is asked and deliver it; return one line for the coordinator."""
        ...

    def refused(self, run: str, reason: str) -> None:
        """Record that a run was refused."""
        ...


class HospitalConfiguration(BaseJobConfiguration):
    """Nothing: whatever template and variables say, the work is done by this installation as it is."""

    @classmethod
    async def resolve_for_flow_run(
        cls,
        flow_run: FlowRun,
        *,
        client: PrefectClient,
        work_pool: WorkPool,
        worker_name: str,
        worker_id: UUID | None = None,
        deployment: DeploymentResponse | None = None,
    ) -> HospitalConfiguration:
        """Return the empty configuration, and read neither template nor variables."""
        return cls()


class HospitalResult(BaseWorkerResult):
    """That a run was dealt with; how it ended is its Prefect state."""


class HospitalWorker(BaseWorker[HospitalConfiguration, Any, HospitalResult]):
    """Does one site's work, as its pool has it.

    Guarantees:
        No code, command, variable, path or block that the server names is used. A pool of another type,
        or one whose template sets anything, is refused, and so is each run of it.
    """

    type: ClassVar[str] = TYPE  # type: ignore[misc]
    job_configuration = HospitalConfiguration
    _description = "Does the site flows of WardRound at a hospital, and nothing else."
    _display_name = "Hospital"

    work: SiteWork | None = None
    # How Prefect is reached while it works; through the site's gateway unless the site's work was given to it.
    connect: Callable[[], AbstractAsyncContextManager[None]] | None = None

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._deployments: dict[UUID, tuple[float, DeploymentResponse]] = {}

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Return a template in which nothing can be set."""
        return EMPTY_TEMPLATE

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

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """See Prefect; a run's work begins at once, without the steps in which others make a job."""
        try:
            await self._propose(await self._carry_out(flow_run), flow_run)
        except Exception:  # the site's work is in its slot or not; what Prefect holds of it is a view
            self._logger.exception("A run could not be followed to its end")
        finally:
            self._submitting_flow_run_ids.discard(flow_run.id)
            self._release_limit_slot(flow_run.id)

    async def run(
        self, flow_run: FlowRun, configuration: HospitalConfiguration, task_status: Any = None
    ) -> HospitalResult:
        """Do what a run asks for, or refuse it; the run's state says which."""
        await self._submit_run(flow_run)
        return HospitalResult(identifier=str(flow_run.id), status_code=0)

    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: HospitalConfiguration, grace_seconds: int = 30
    ) -> None:
        """Do nothing: a run has no process of its own; the site's work is ended through the gateway."""

    async def _carry_out(self, flow_run: FlowRun) -> State[Any]:
        """Return the state a run ends in."""
        assert self.work is not None  # since setup
        try:
            request = self._review(flow_run, await self._read_deployment(flow_run))
        except RefusedError as error:
            self.work.refused(str(flow_run.id), str(error))
            return Failed(name="Refused", message=f"refused by {self.work.site}: {error}")
        running = asyncio.ensure_future(self._show_running(flow_run))
        try:
            return Completed(message=await self.work.carry_out(request))
        except Exception as error:
            if not isinstance(error, RefusedError):  # its message may hold a path or a patient's name: it stays here
                self._logger.exception("A site's work ended with an error")
            return Failed(message=fit_to_leave(error))
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _show_running(self, flow_run: FlowRun) -> None:
        """Say that a run is under way, if it does not end at once."""
        await asyncio.sleep(SHOWN_AFTER_S)
        await self._propose(Running(), flow_run)

    def _review(self, flow_run: FlowRun, deployment: DeploymentResponse | None) -> SiteRequest:
        """Return the request of a run, unless anything else comes with it."""
        assert self.work is not None  # since setup
        check_pool(self.work_pool)
        if deployment is None:
            raise RefusedError("the run belongs to no deployment")
        check_run(flow_run, deployment)
        return read_request(flow_run.parameters, site=self.work.site)

    async def _read_deployment(self, flow_run: FlowRun) -> DeploymentResponse | None:
        """Return the deployment a run belongs to, or None."""
        identifier, now = flow_run.deployment_id, time.monotonic()
        if identifier is None:
            return None
        known = self._deployments.get(identifier)
        if known is None or now - known[0] > DEPLOYMENT_KNOWN_S:
            try:
                known = now, await self.client.read_deployment(identifier)
            except ObjectNotFound:
                return None
            self._deployments[identifier] = known
        return known[1]

    async def _propose(self, state: State[Any], flow_run: FlowRun) -> None:
        """Tell Prefect; that it is away, or no longer wants to know (a cancelled run), changes nothing here."""
        try:
            await propose_state(self.client, state, flow_run_id=flow_run.id)
        except Abort as error:
            self._logger.debug("Prefect did not take a state of run %s: %s", flow_run.id, error)
        except Exception as error:
            self._logger.warning("Prefect was not told a state of run %s: %s", flow_run.id, type(error).__name__)


def check_pool(pool: WorkPool) -> None:
    """Refuse a pool that is not of this type, or that sets anything.

    Raises:
        RefusedError: Naming what it is.
    """
    if pool.type != TYPE:
        raise RefusedError(f"the pool is of type {pool.type!r}, not {TYPE!r}")
    if pool.base_job_template != EMPTY_TEMPLATE:
        raise RefusedError("the pool's job template sets something; a hospital's pool sets nothing")
    if pool.storage_configuration.model_dump(exclude_none=True):
        raise RefusedError("the pool has storage for code or results; a hospital's pool has none")


def check_run(flow_run: FlowRun, deployment: DeploymentResponse) -> None:
    """Refuse a run that carries anything but its parameters.

    Raises:
        RefusedError: Naming all that it carries.
    """
    carried = {
        "job variables of the run": flow_run.job_variables,
        "an infrastructure block of the run": flow_run.infrastructure_document_id,
        "a context": flow_run.context,
        "job variables of the deployment": deployment.job_variables,
        "default parameters of the deployment": deployment.parameters,
        "pull steps": deployment.pull_steps,
        "an entry point": deployment.entrypoint,
        "a path": deployment.path,
        "a storage block": deployment.storage_document_id,
        "an infrastructure block": deployment.infrastructure_document_id,
    }
    found = [name for name, value in carried.items() if value]
    if found:
        raise RefusedError(f"the run carries {', '.join(found)}; a hospital runs its own code and takes none of these")


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
