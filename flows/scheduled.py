"""Trainings and analyses by the clock: ``wardround deploy`` and the coordinator's worker that carries them out.

A deployed study is a file in the coordinator's folder and a Prefect deployment of the same name, with a schedule, in
the pool ``coordinator``. When a run of it is due, the worker starts ``wardround train``, or ``wardround analyse``, with
that file: Prefect says when, and nothing of what.

::

    <folder>/deployed/<study>.yaml    what is trained, or analysed
    <folder>/deployed/<study>.log     what that said, the last times
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from prefect._vendor.croniter.croniter import CroniterBadDateError, croniter  # what its scheduler reads times with
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, WorkPoolFilter
from prefect.client.schemas.filters import WorkPoolFilterName as PoolName
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Failed, Running
from pydantic import ValidationError

from components.analytics.plan import AnalysisStudy
from components.errors import RefusedError, StudyError, WardRoundError
from components.files import storage_errors, write_whole
from components.rounds import NAME_PATTERN
from components.study import Study
from flows.cancellation import cancel_study
from flows.closed_worker import ClosedWorker, ensure_pool
from flows.coordinator import OWN_NAME
from flows.health import HEARTBEAT
from flows.withdrawal import withdraw_training

POOL = TYPE = OWN_NAME
FLOWS = {"train": "scheduled-training", "analyse": "scheduled-analysis"}  # by the command that a run starts
LOOK_EVERY_S = 3.0  # whether somebody cancelled a run in Prefect
TOLD_CHARACTERS = 2000


def deployed_file(folder: Path, study: str) -> Path:
    """Return where a deployed study lies."""
    return folder / "deployed" / f"{study}.yaml"


def command_for(path: Path) -> str:
    """Return the command that carries out a deployed study."""
    return "analyse" if "analysis" in json.loads(path.read_bytes()) else "train"


async def deploy(study: Study | AnalysisStudy, folder: Path, *, cron: str, timezone: str) -> None:
    """Have a study carried out by a schedule; called again, it is changed.

    Args:
        study: The study.
        folder: The coordinator's folder.
        cron: When, as cron has it: minute, hour, day of month, month, day of week.
        timezone: Whose clock, for example ``Europe/Berlin``.

    Raises:
        StudyError: If there is no such time or timezone, the time never comes, or a study of the other kind is
            deployed by this name.
        StorageError: If the study cannot be written.
    """
    schedule = schedule_of(cron, timezone)
    path, command = deployed_file(folder, study.study), "train" if isinstance(study, Study) else "analyse"
    if path.exists() and command_for(path) != command:
        raise StudyError(
            f"a study named {study.study} is on the schedule, which is another one: take it off first, with wardround "
            "deploy STUDY --remove"
        )
    with storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(study.model_dump(mode="json"), indent=1).encode())
    async with get_client() as client:
        await ensure_pool(client, POOL, TYPE, "The coordinator, which carries out deployed studies")
        flow = await client.create_flow_from_name(FLOWS[command])
        await client.create_deployment(
            flow, name=study.study, work_pool_name=POOL, enforce_parameter_schema=False, parameters={},
            schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)],
        )  # fmt: skip


def schedule_of(cron: str, timezone: str) -> CronSchedule:
    """Return a schedule; arguments as of `deploy`.

    Raises:
        StudyError: Naming the option that is wrong: no time, one that never comes, or no timezone.
    """
    example = "for example: --cron '0 2 * * 0' is Sundays at two in the night"
    try:
        CronSchedule(cron=cron, timezone="UTC")
        croniter(cron).get_next()  # type: ignore[no-untyped-call]
    except ValidationError as error:
        raise StudyError(f"--cron {cron!r} is no schedule; {example}") from error
    except CroniterBadDateError as error:
        raise StudyError(f"--cron {cron!r} never comes: no month has that day; {example}") from error
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        raise StudyError(f"--timezone {timezone!r} is no timezone; for example: Europe/Berlin, or UTC") from error


async def undeploy(study: str, folder: Path) -> bool:
    """Take a study from the schedule; False if it was not on it."""
    gone = False
    async with get_client() as client:
        for flow in FLOWS.values():
            with suppress(ObjectNotFound):
                await client.delete_deployment((await client.read_deployment_by_name(f"{flow}/{study}")).id)
                gone = True
    deployed_file(folder, study).unlink(missing_ok=True)
    return gone


class CoordinatorWorker(ClosedWorker):
    """Carries out deployed studies when they are due, each in a process of its own.

    Guarantees:
        A run decides only which deployed study is carried out. A worker that ends takes up again what was under way
        when it starts: what was done is in the journals.
    """

    type: ClassVar[str] = TYPE  # type: ignore[misc]
    _description = "Carries out deployed studies when they are due, and does nothing else."
    _display_name = "Coordinator"

    home: Path
    folder: Path
    _adopted = False

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """See Prefect; the first time, runs that an earlier worker left under way are taken up."""
        if not self._adopted:
            self._adopted = True
            assert self._runs_task_group is not None  # since setup
            for run in await self._left():
                self._runs_task_group.start_soon(self._submit_run, run)
        found = await super().get_and_submit_flow_runs()
        if self._has_successfully_synced:
            (self.folder / HEARTBEAT).touch()
        return found

    async def carry_out(self, flow_run: FlowRun) -> State[Any]:
        """Carry out the study of a run, or refuse it; return the state the run ends in."""
        try:
            study = await self._study(flow_run)
        except RefusedError as error:
            return Failed(name="Refused", message=str(error))
        await self._propose(Running(), flow_run)
        file = deployed_file(self.folder, study)
        log = file.with_suffix(".log")
        with log.open("ab") as output:
            begin = output.tell()
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "flows.cli", command_for(file), str(file)],
                *["--home", str(self.home), "--folder", str(self.folder)],
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
            )  # fmt: skip
        try:
            cancelled = await self._follow(process, study, flow_run)
        except BaseException:
            with suppress(ProcessLookupError):
                process.terminate()  # it stops in order, and is taken up again
            await process.wait()
            raise
        said = log.read_bytes()[begin:].decode(errors="replace").strip()[-TOLD_CHARACTERS:]
        if cancelled:
            return Cancelled(message=said)
        return Completed(message=said) if process.returncode == 0 else Failed(message=said)

    async def _study(self, flow_run: FlowRun) -> str:
        """Return the deployed study that a run is for."""
        await self._check(flow_run)
        deployment = await self._read_deployment(flow_run)
        name = deployment.name if deployment is not None else ""
        if flow_run.parameters or not re.fullmatch(NAME_PATTERN, name):
            raise RefusedError("a run of a deployed study has no parameters, and the study's name")
        if not deployed_file(self.folder, name).exists():
            raise RefusedError(f"no study {name} is deployed here: run  wardround deploy STUDY --cron ...")
        return name

    async def _follow(self, process: asyncio.subprocess.Process, study: str, flow_run: FlowRun) -> bool:
        """Wait for the process to end, and cancel its work if the run is cancelled; return whether it was."""
        ending: asyncio.Task[None] | None = None
        waiting = asyncio.ensure_future(process.wait())
        while not (await asyncio.wait([waiting], timeout=LOOK_EVERY_S))[0]:
            if ending is None and await self._is_cancelled(flow_run):
                ending = asyncio.create_task(asyncio.to_thread(self._cancel, study))
        if ending is not None:
            await ending
        return ending is not None

    def _cancel(self, study: str) -> None:
        try:
            cancel_study(self.home, study, "cancelled in Prefect", withdraw=withdraw_training(self.folder))
        except WardRoundError as error:
            self._logger.warning("a cancelled run: %s", error)

    async def _is_cancelled(self, flow_run: FlowRun) -> bool:
        """Return whether somebody cancelled a run in Prefect; while Prefect is away, nobody did."""
        try:
            state = (await self.client.read_flow_run(flow_run.id)).state
        except Exception:
            return False
        return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)

    async def _left(self) -> list[FlowRun]:
        """Return the runs that are under way, as Prefect has it."""
        open_ones = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
        return await self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=open_ones), work_pool_filter=WorkPoolFilter(name=PoolName(any_=[POOL]))
        )
