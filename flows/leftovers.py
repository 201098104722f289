"""Prefect's runs of a training whose process was killed: they would stay Running for ever."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.states import Crashed

OPEN = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.CANCELLING]


async def end_leftovers(training: str, own: UUID) -> int:
    """Mark the runs that an earlier process of this training left open as crashed.

    Only one process drives a training (it holds the journal's lock), so whatever is open under its name
    and is not our own has no process any more.

    Args:
        training: Identifier of the training; its flow run has this name, its rounds end with it.
        own: The flow run of this process.

    Returns:
        How many runs there were.
    """
    left = FlowRunFilter(
        name=FlowRunFilterName(like_=training), state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN))
    )
    crashed: State[None] = Crashed(message="Its process ended; another one took the training up from the journal.")
    async with get_client() as client:
        runs = [run for run in await client.read_flow_runs(flow_run_filter=left) if run.id != own]
        for run in runs:
            await client.set_flow_run_state(run.id, crashed, force=True)
    return len(runs)
