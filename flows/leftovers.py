"""Prefect's runs of a training that nobody drives any more: they would stay Running for ever."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed

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
    crashed: State[None] = Crashed(message="Its process ended; another one took the training up from the journal.")
    return await _end(FlowRunFilter(name=FlowRunFilterName(like_=training)), crashed, own)


async def end_cancelled(training: str) -> int:
    """Mark all open runs of a training as cancelled, those in the hospitals' pools too; return how many there were."""
    cancelled: State[None] = Cancelled(message="The training was cancelled.")
    ended = await _end(FlowRunFilter(tags=FlowRunFilterTags(all_=[training])), cancelled)
    return ended + await _end(FlowRunFilter(name=FlowRunFilterName(like_=training)), cancelled)


async def _end(which: FlowRunFilter, state: State[None], own: UUID | None = None) -> int:
    """Put open runs into a state."""
    left = which.model_copy(update={"state": FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN))})
    async with get_client() as client:
        runs = [run for run in await client.read_flow_runs(flow_run_filter=left) if run.id != own]
        for run in runs:
            await client.set_flow_run_state(run.id, state, force=True)
    return len(runs)
