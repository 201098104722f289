"""A Prefect worker that takes from the server which run waits for it, and nothing else.

A stock worker does what the server tells it: a command, environment variables, an image, an entry point, steps that
pull code. A closed one does what its own installation has, with the parameters of a run after it checked them.
"""

from __future__ import annotations

import abc
import time
from typing import Any, ClassVar
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, State, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import Abort, ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult

from components.errors import RefusedError, ServiceError

DEPLOYMENT_KNOWN_S = 60.0  # nothing of it is used; whether it sets anything is looked at again after this long
# What a pool of a closed worker looks like: nothing can be set, neither by a deployment nor by a run. (Prefect takes
# no template that is empty, hence the one line.)
EMPTY_TEMPLATE: dict[str, Any] = {
    "job_configuration": {"runs": "what this installation has, and nothing else"},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


class EmptyConfiguration(BaseJobConfiguration):
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
    ) -> EmptyConfiguration:
        """Return the empty configuration, and read neither template nor variables."""
        return cls()


class RunResult(BaseWorkerResult):
    """That a run was dealt with; how it ended is its Prefect state."""


class ClosedWorker(BaseWorker[EmptyConfiguration, Any, RunResult], abc.ABC):
    """Does what its installation has; the base of the hospitals' worker and of the coordinator's.

    Guarantees:
        No code, command, variable, path or block that the server names is used.
    """

    job_configuration = EmptyConfiguration
    type: ClassVar[str]  # type: ignore[misc]

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self._deployments: dict[UUID, tuple[float, DeploymentResponse]] = {}

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """Return a template in which nothing can be set."""
        return EMPTY_TEMPLATE

    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: EmptyConfiguration, grace_seconds: int = 30
    ) -> None:
        """Do nothing: a run has no process of Prefect's; its work is ended through the gateway or its journal."""

    @abc.abstractmethod
    async def carry_out(self, flow_run: FlowRun) -> State[Any]:
        """Do what a run asks for, or refuse it; return the state it ends in."""

    async def run(self, flow_run: FlowRun, configuration: EmptyConfiguration, task_status: Any = None) -> RunResult:
        """See Prefect."""
        await self._submit_run(flow_run)
        return RunResult(identifier=str(flow_run.id), status_code=0)

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """See Prefect; a run's work begins at once, without the steps in which others make a job."""
        try:
            await self._propose(await self.carry_out(flow_run), flow_run)
        except Exception:  # what counts is recorded or not; what Prefect holds of it is a view
            self._logger.exception("A run could not be followed to its end")
        finally:
            self._submitting_flow_run_ids.discard(flow_run.id)
            self._release_limit_slot(flow_run.id)

    async def _check(self, flow_run: FlowRun) -> None:
        """Refuse a run that carries anything but parameters, or comes from a pool that sets anything.

        Raises:
            RefusedError: Naming what it carries.
        """
        check_pool(self.work_pool, self.type)
        deployment = await self._read_deployment(flow_run)
        if deployment is None:
            raise RefusedError("the run belongs to no deployment")
        check_run(flow_run, deployment)

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


def check_pool(pool: WorkPool, kind: str) -> None:
    """Refuse a pool that is not of a type, or that sets anything.

    Raises:
        RefusedError: Naming what it is.
    """
    if pool.type != kind:
        raise RefusedError(f"the pool is of type {pool.type!r}, not {kind!r}")
    if pool.base_job_template != EMPTY_TEMPLATE:
        raise RefusedError("the pool's job template sets something; a pool of ours sets nothing")
    if pool.storage_configuration.model_dump(exclude_none=True):
        raise RefusedError("the pool has storage for code or results; a pool of ours has none")


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
        raise RefusedError(f"the run carries {', '.join(found)}; this worker runs its own code and takes none of these")


async def ensure_pool(client: PrefectClient, name: str, kind: str, description: str) -> None:
    """Make a pool for a closed worker, or put it back to what it must be.

    Raises:
        ServiceError: If there is a pool of another type with its name.
    """
    try:
        await client.create_work_pool(
            WorkPoolCreate(name=name, type=kind, base_job_template=EMPTY_TEMPLATE, description=description)
        )
    except ObjectAlreadyExists:
        pool = await client.read_work_pool(name)
        if pool.type != kind:
            raise ServiceError(
                f"Prefect has a pool {name} of type {pool.type!r}, not {kind!r}: delete it, or use another name"
            ) from None
        if pool.base_job_template != EMPTY_TEMPLATE:
            await client.update_work_pool(name, WorkPoolUpdate(base_job_template=EMPTY_TEMPLATE))
