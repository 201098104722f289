"""Prefect's runs of a training that nobody drives any more: they would stay Running for ever."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Completed, Crashed

from components.ledger import TrainingLedger

OPEN = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.CANCELLING]


async def end_leftovers(training: str, others: Mapping[str, TrainingLedger], own: UUID) -> int:
    """End the runs that earlier processes of a study left open: a process was killed, or Prefect was away at its end.

    Only one process drives a study (it holds the journal's lock), so whatever is open under the name of one of its
    trainings and is not our own has no process any more.

    Args:
        training: Identifier of the training that begins; its flow run has this name, its rounds end with it.
        others: The study's other trainings; what of one that finished is still open was completed.
        own: The flow run of this process.

    Returns:
        How many runs there were.
    """
    crashed: State[None] = Crashed(message="Its process ended; another one took the training up from the journal.")
    finished: State[None] = Completed(message="The journal has it; Prefect was away when it ended.")
    flows = FlowFilter(name=FlowFilterName(any_=["federated-training", "federated-round"]))
    ended = 0
    async with get_client() as client:
        for run in await client.read_flow_runs(flow_filter=flows, flow_run_filter=_open()):
            name = run.name.rpartition(" ")[2]
            if run.id != own and (name == training or name in others):
                done = name in others and others[name].finished is not None
                await client.set_flow_run_state(run.id, finished if done else crashed, force=True)
                ended += 1
    return ended


async def end_cancelled(training: str) -> int:
    """Mark all open runs of a training or an analysis as cancelled, also in the hospitals' pools; return how many."""
    cancelled: State[None] = Cancelled(message="It was cancelled.")
    ended = await _end(FlowRunFilter(tags=FlowRunFilterTags(all_=[training])), cancelled)
    return ended + await _end(FlowRunFilter(name=FlowRunFilterName(like_=training)), cancelled)


async def _end(which: FlowRunFilter, state: State[None]) -> int:
    """Put open runs into a state."""
    left = which.model_copy(update={"state": _open().state})
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_run_filter=left)
        for run in runs:
            await client.set_flow_run_state(run.id, state, force=True)
    return len(runs)


def _open() -> FlowRunFilter:
    """Return the filter of runs that have not ended."""
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN)))
