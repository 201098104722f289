"""What the hospitals are asked, as Prefect shows it: each hospital a work pool, each piece of work a run in it.

The runs are a view. The work itself travels through the gateway's list, and has begun before Prefect knows of it;
so everything here happens in a thread of its own, may fail, and holds nothing up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import Task
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Pending, Running

from components.exchange.site_request import AnyRequest, request_parameters
from flows.closed_worker import ensure_pool
from flows.hospital_worker import TYPE

FLOWS = {"prepare": "site-preparation", "train": "site-training", "analyse": "site-analysis"}
DRAIN_S = 5.0
SHOWN_AFTER_S = 1.0  # what is over sooner is shown when it is over: one request to Prefect instead of two
ROUND_WITHIN_S = 60.0
log = logging.getLogger("wardround.coordinator")


@dataclass(frozen=True)
class SiteRun:
    """One piece of work as a run.

    Attributes:
        name: For a person.
        key: What it is known by: shown twice, it is one run.
        request: What the site is asked.
        round: The round whose run it is shown under; None if it belongs to none.
    """

    name: str
    key: str
    request: AnyRequest
    round: int | None


class SiteRuns:
    """The runs of one training's hospitals; their pools and deployments are made, or put back, as they are needed.

    Args:
        patient: Whether its end waits for all that is still to be shown, as long as more and more of it is.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self._loop = asyncio.new_event_loop()
        self._client: PrefectClient | None = None
        self._deployments: dict[tuple[str, str], asyncio.Future[UUID]] = {}
        self._rounds: dict[int, asyncio.Future[UUID]] = {}
        self._runs_of_rounds: dict[int, UUID] = {}
        self._ends: dict[str, asyncio.Future[State[None]]] = {}  # of what is under way
        self._open: set[asyncio.Task[bool]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name="site-runs")
        self._thread.start()

    def show(self, run: SiteRun) -> None:
        """Show a piece of work that was asked for now; returns at once."""
        asked: State[None] = Running()
        self._start(self._show(run, asked))

    def ended(self, key: str, state: State[None]) -> None:
        """Show how a piece of work ended; returns at once."""
        self._start(self._end(key, state))

    def begin_round(self, number: int, run: UUID) -> None:
        """Show the work of a round under a flow run; returns at once."""
        self._start(self._begin_round(number, run))

    def say(self, number: int, text: str) -> None:
        """Show at a round's run what it waits for; nothing any more if the text is empty. Returns at once."""
        self._start(self._say(number, text))

    def close(self) -> None:
        """Show what is still to be shown, for a few seconds at most unless it is patient, and end."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._drain()))
        self._thread.join(None if self._patient else DRAIN_S + 1.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the thread; what fails is said in the log."""

        def begin() -> None:
            task = self._loop.create_task(self._quietly(work))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:  # closed
            work.close()

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> bool:
        """Show something; return whether that was possible."""
        try:
            await work
        except Exception as error:
            log.warning("Prefect does not show a hospital's work: %s", error)
            return False
        return True

    async def _drain(self) -> None:
        for end in self._ends.values():
            end.cancel()  # what a site still works on is shown again by the process that collects it
        others = {task for task in self._open if task is not asyncio.current_task()}
        when = asyncio.FIRST_COMPLETED if self._patient else asyncio.ALL_COMPLETED
        while others:
            over, others = await asyncio.wait(others, timeout=DRAIN_S, return_when=when)
            if not self._patient or not any(one.result() for one in over if not one.cancelled()):
                break
        for task in self._open:
            task.cancel()
        if self._client is not None:
            with contextlib.suppress(Exception):
                await self._client.__aexit__(None, None, None)
        self._loop.stop()

    async def _connected(self) -> PrefectClient:
        """Return the one client of this thread."""
        if self._client is None:
            self._client = get_client()
            await self._client.__aenter__()
        return self._client

    async def _begin_round(self, number: int, run: UUID) -> None:
        """Make what stands in the round's run for all that happens at its hospitals."""
        self._runs_of_rounds[number] = run
        client = await self._connected()
        task: Task[Any, Any] = Task(name="hospitals", fn=_nothing)
        made = await client.create_task_run(task, run, dynamic_key="hospitals", state=Pending())
        self._round(number).set_result(made.id)

    def _round(self, number: int) -> asyncio.Future[UUID]:
        """Return what a round's site runs are shown under, when it is known."""
        return self._rounds.setdefault(number, self._loop.create_future())

    async def _show(self, run: SiteRun, asked: State[None]) -> None:
        """Make the run of a piece of work, and end it with the work; of what is soon over, the end alone."""
        end: asyncio.Future[State[None]] = self._loop.create_future()
        self._ends[run.key] = end
        try:
            parent = await self._parent(run.round)
            await asyncio.wait([end], timeout=SHOWN_AFTER_S)
            client = await self._connected()
            state = end.result() if end.done() else asked
            made = await self._make(client, run, state, parent)
            if made.state is None or made.state.type != (await end).type:
                await client.set_flow_run_state(made.id, end.result(), force=True)
        finally:
            self._ends.pop(run.key, None)

    async def _end(self, key: str, state: State[None]) -> None:
        end = self._ends.get(key)
        if end is not None and not end.done():
            end.set_result(state)

    async def _parent(self, number: int | None) -> UUID | None:
        """Return what a piece of work is shown under; nothing where Prefect does not show its round."""
        if number is None:
            return None
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._round(number)), ROUND_WITHIN_S)
        return None

    async def _make(self, client: PrefectClient, run: SiteRun, state: State[None], parent: UUID | None) -> FlowRun:
        """Make a run in its hospital's pool, or return the one of its key."""
        deployment = await self._deployment(client, run.request)
        parameters = request_parameters(run.request)
        text = json.dumps(parameters, sort_keys=True)
        return await client.create_flow_run_from_deployment(
            deployment, parameters=parameters, state=state, name=run.name, parent_task_run_id=parent,
            idempotency_key=f"{run.key}/{hashlib.sha256(text.encode()).hexdigest()[:32]}",
            tags=[run.request.training],
        )  # fmt: skip

    async def _say(self, number: int, text: str) -> None:
        run, client = self._runs_of_rounds.get(number), await self._connected()
        if run is None:
            return
        now = (await client.read_flow_run(run)).state
        if now is None or not now.is_final():  # what has ended meanwhile stays as it ended
            state: State[None] = Running(name="WaitingForQuorum", message=text) if text else Running()
            await client.set_flow_run_state(run, state, force=True)

    async def _deployment(self, client: PrefectClient, request: AnyRequest) -> UUID:
        """Return the deployment of a kind of work at a site; made once, with its pool."""
        wanted = FLOWS[request.kind], request.site
        if wanted not in self._deployments:
            self._deployments[wanted] = self._loop.create_task(self._make_deployment(client, *wanted))
        return await self._deployments[wanted]

    async def _make_deployment(self, client: PrefectClient, flow_name: str, site: str) -> UUID:
        flow = await client.create_flow_from_name(flow_name)
        await ensure_pool(client, site, TYPE, f"The hospital {site}")
        return await client.create_deployment(
            flow, name=site, work_pool_name=site, enforce_parameter_schema=False, parameters={}
        )


def _nothing() -> None:
    """Stand in the round's run for what happens at a hospital."""
