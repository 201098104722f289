"""The dispatcher of a federation: orders go out as Prefect runs in the hospitals' pools, answers come back sealed.

An order is a run of a deployment in the site's own pool, and the run is a view: what counts is the envelope in
the order's slot behind the gateway. A site may answer while Prefect is away, and a run that Prefect holds to
have crashed may be done.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectAlreadyExists

from components.dispatch import Dispatcher, InitialModel, Preparation
from components.errors import ServiceError, SiteError, WardRoundError
from components.exchange.sealing import open_file, sealed_size
from components.exchange.signed import SignedOrder, SignedPlan, sign_order, sign_plan, update_context, verify_update
from components.exchange.signing import Signed, read_signed
from components.exchange.site_request import (
    Call,
    SiteRequest,
    request_parameters,
    sign_call,
    verify_prepared,
)
from components.federation import slot_of
from components.files import make_folder
from components.gateway.records import SlotKey, slot_of_order
from components.governance.architecture import architecture_digest
from components.rounds import Answer, Order
from components.study import Study
from flows.coordinator import CoordinatorSide
from flows.hospital_worker import EMPTY_TEMPLATE, TYPE

FLOWS = {"prepare": "site-preparation", "train": "site-training", "evaluate": "site-evaluation"}
LOOK_EVERY_S = 0.03
ASK_PREFECT_EVERY_S = 1.0
GRACE_S = 3.0  # after a run has ended without an answer, for the answer that is still on its way
PUBLISHED = 4  # weights that hospitals may read at a time: of the round in work, and of the one before
HEADER_BYTES = 1 << 20  # of an update, beyond the weights it began with


@dataclass
class _Waiting:
    """One piece of work that a site was asked for."""

    slot: SlotKey
    request: SiteRequest
    order: Order | None
    call: Call | None
    future: Future[Any]
    run: UUID | None = None
    ended: tuple[float, str] | None = None  # when its run was seen to have ended, and what it said


@dataclass
class _Board:
    """What is waited for, shared by threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: dict[SlotKey, _Waiting] = field(default_factory=dict)


class RemoteDispatcher:
    """Sends a training's orders to its hospitals.

    Args:
        study: The study.
        side: The coordinator's side of the federation.
        training: Identifier that preparations are asked for under.
        local: Builds and exports the network on this machine.
    """

    def __init__(self, study: Study, side: CoordinatorSide, training: str, local: Dispatcher) -> None:
        self._study, self._side, self._training, self._local = study, side, training, local
        self._store = side.store(study.study)
        self._published: list[str] = []
        self._board, self._closed = _Board(), threading.Event()
        self._plans: dict[str, Signed] = {}
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="orders")
        threading.Thread(target=self._watch, daemon=True, name="answers").start()

    def initialise(self, study: Study) -> Future[InitialModel]:
        """See `components.dispatch.Dispatcher`."""
        return self._local.initialise(study)

    def export(self, study: Study, file: Path) -> Future[Path]:
        """See `components.dispatch.Dispatcher`."""
        return self._local.export(study, file)

    def prepare(self, site: str) -> Future[Preparation]:
        """See `components.dispatch.Dispatcher`."""
        call = Call(
            federation=self._side.federation,
            site=site,
            training=self._training,
            study_digest=self._study.digest,
            nonce=secrets.token_hex(16),
        )
        signed = sign_call(call, self._side.secrets.signing)
        request = SiteRequest(kind="prepare", site=site, training=self._training, study=self._study, call=signed)
        slot = SlotKey(training=self._training, round=1, attempt=1, kind="prepare", site=site)
        return self._send(_Waiting(slot, request, None, call, Future()), max_bytes=1)

    def submit(self, order: Order) -> Future[Answer]:
        """See `components.dispatch.Dispatcher`."""
        self._publish(order.weights_digest, order.site)
        signed = SignedOrder(federation=self._side.federation, order=order)
        request = SiteRequest(
            kind=order.kind,
            site=order.site,
            training=order.plan.training,
            study=self._study,
            call=sign_order(signed, self._side.secrets.signing),
            plan=self._signed_plan(order),
        )
        slot = slot_of_order(order)
        most = self._most_bytes(order) if order.kind == "train" else 1
        return self._send(_Waiting(slot, request, order, None, Future()), max_bytes=sealed_size(most))

    def close(self) -> None:
        """Take no more answers; the sites' work goes on, and what they deliver is collected by the next start."""
        self._closed.set()
        self._threads.shutdown(cancel_futures=True)
        with self._board.lock:
            waiting = list(self._board.waiting.values())
            self._board.waiting.clear()
        for item in waiting:
            _fail(item.future, WardRoundError("the training was ended here"))
        while self._published:
            self._withdraw(self._published.pop())
        self._local.close()

    def _publish(self, digest: str, site: str) -> None:
        """Let a site read weights; those of rounds that are over are withdrawn."""
        shared = self._side.exchange / "objects" / f"{digest}.safetensors"
        make_folder(shared.parent)
        with suppress(FileExistsError):
            shared.hardlink_to(self._store.path(digest))
        self._side.grants.allow(digest, [site])
        if digest not in self._published:
            self._published.append(digest)
            while len(self._published) > PUBLISHED:
                self._withdraw(self._published.pop(0))

    def _withdraw(self, digest: str) -> None:
        """Let nobody read weights any more."""
        self._side.grants.forbid(digest)
        (self._side.exchange / "objects" / f"{digest}.safetensors").unlink(missing_ok=True)

    def _signed_plan(self, order: Order) -> Signed:
        """Return the plan as every site of the round gets it: the same bytes."""
        text = order.plan.model_dump_json()
        if text not in self._plans:
            plan = SignedPlan(
                federation=self._side.federation,
                plan=order.plan,
                architecture=architecture_digest(self._study),
                sealing_key=self._side.secrets.sealing.public.fingerprint,
            )
            self._plans = {text: sign_plan(plan, self._side.secrets.signing)}  # of the round in work
        return self._plans[text]

    def _most_bytes(self, order: Order) -> int:
        """Return the largest update that is taken: the weights it begins with, and room for a header."""
        return self._store.path(order.plan.base_digest).stat().st_size + HEADER_BYTES

    def _send(self, item: _Waiting, *, max_bytes: int) -> Future[Any]:
        """Open the slot, make the run and wake the site; what lies in the slot already is taken at once."""
        self._side.grants.open_slot(item.slot, max_bytes=max_bytes)
        with self._board.lock:
            self._board.waiting[item.slot] = item
        if self._side.sealed.envelope(item.slot) is None:
            self._launch(self._order(item), item)
        return item.future

    def _launch(self, work: Coroutine[Any, Any, None], item: _Waiting) -> None:
        """Run a coroutine where Prefect's context of the caller is, if there is one."""
        done: Future[None] | asyncio.Task[None]
        try:
            done = asyncio.get_running_loop().create_task(work)
        except RuntimeError:
            done = self._threads.submit(asyncio.run, work)

        def settle(finished: Any) -> None:
            error = None if finished.cancelled() else finished.exception()
            if error is not None:
                self._give_up(
                    item, ServiceError(f"the order for {item.slot.site} could not be made in Prefect: {error}")
                )

        done.add_done_callback(settle)

    async def _order(self, item: _Waiting) -> None:
        """Make the run of a piece of work; asked for twice, it is made once, unless the first one failed."""
        parameters = request_parameters(item.request)
        text = json.dumps(parameters, sort_keys=True)
        key = f"{item.slot.folder.as_posix()}/{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        run = await self._run(item, parameters, key)
        if run.state is not None and run.state.is_final():
            run = await self._run(item, parameters, f"{key}/{secrets.token_hex(4)}")
        item.run = run.id
        await asyncio.to_thread(self._side.grants.ring, item.slot.site)

    async def _run(self, item: _Waiting, parameters: dict[str, Any], key: str) -> FlowRun:
        """Make a run in the site's pool, or return the one of this key."""
        deployment = f"{FLOWS[item.request.kind]}/{item.slot.site}"
        return await arun_deployment(
            deployment, parameters=parameters, flow_run_name=_run_name(item), timeout=0, idempotency_key=key
        )

    def _watch(self) -> None:
        """Take answers as they come, and ask Prefect now and then about those that do not."""
        asked = time.monotonic()
        while not self._closed.wait(LOOK_EVERY_S):
            with self._board.lock:
                waiting = list(self._board.waiting.values())
            for item in waiting:
                self._take(item)
            if waiting and time.monotonic() - asked > ASK_PREFECT_EVERY_S:
                asked = time.monotonic()
                self._look_at_runs(waiting)

    def _take(self, item: _Waiting) -> None:
        """Take an answer if it is there."""
        try:
            text = self._side.sealed.envelope(item.slot)
            if text is None:
                return
            result = self._read(item, text)
        except WardRoundError as error:
            self._give_up(item, error)
            return
        self._settle(item)
        self._side.sealed.discard(item.slot)  # what it held is in the store, or in the journal
        if not item.future.cancelled():
            item.future.set_result(result)

    def _read(self, item: _Waiting, text: bytes) -> Any:
        """Return what a site delivered, verified; an update is opened into its place."""
        key, signed = self._side.signing_key(item.slot.site), read_signed(text)
        if item.call is not None:
            return verify_prepared(signed, key, item.call)
        assert item.order is not None  # one of the two
        envelope = verify_update(signed, key, federation=self._side.federation, order=item.order)
        if envelope.answer.update is not None:
            self._open_update(item.order, item.slot, envelope.answer)
        return envelope.answer

    def _open_update(self, order: Order, slot: SlotKey, answer: Answer) -> None:
        """Open a sealed update into the store's slot."""
        assert answer.update is not None  # the caller's check
        place = slot_of(order.plan, order.site)
        target = self._store.update_path(place, answer.update.file_sha256)
        context = update_context(self._side.federation, order)
        open_file(self._side.sealed.payload(slot), target, self._side.secrets.sealing, context, self._most_bytes(order))
        self._store.submit(place, answer)

    def _look_at_runs(self, waiting: Sequence[_Waiting]) -> None:
        """Give up on work whose run has ended without an answer."""
        try:
            states = asyncio.run(_states([item.run for item in waiting if item.run is not None]))
        except Exception:  # Prefect is away: the answers are not
            return
        for item in waiting:
            state = states.get(item.run) if item.run is not None else None
            if state is None or not state.is_final():
                item.ended = None
            elif item.ended is None:
                item.ended = time.monotonic(), state.message or str(state.name)
            elif time.monotonic() - item.ended[0] > GRACE_S:
                self._give_up(item, _site_error(item))

    def _give_up(self, item: _Waiting, error: Exception) -> None:
        self._settle(item)
        _fail(item.future, error)

    def _settle(self, item: _Waiting) -> None:
        """Wait for a piece of work no more, and close its slot."""
        with self._board.lock:
            self._board.waiting.pop(item.slot, None)
        self._side.grants.close_slot(item.slot)


async def ensure_pools(sites: Sequence[str]) -> None:
    """Make the sites' pools and deployments, or put back what they must be."""
    async with get_client() as client:
        for kind, name in FLOWS.items():
            flow = await client.create_flow_from_name(name)
            for site in sites:
                if kind == "prepare":
                    await _ensure_pool(client, site)
                await client.create_deployment(
                    flow, name=site, work_pool_name=site, enforce_parameter_schema=False, parameters={}
                )


async def _ensure_pool(client: Any, site: str) -> None:
    try:
        await client.create_work_pool(
            WorkPoolCreate(name=site, type=TYPE, base_job_template=EMPTY_TEMPLATE, description=f"The hospital {site}")
        )
    except ObjectAlreadyExists:
        pool = await client.read_work_pool(site)
        if pool.type != TYPE:
            raise ServiceError(
                f"Prefect has a pool {site} of type {pool.type!r}: delete it, or name the hospital otherwise"
            ) from None
        await client.update_work_pool(site, WorkPoolUpdate(base_job_template=EMPTY_TEMPLATE))


async def _states(runs: Sequence[UUID]) -> dict[UUID, State[Any]]:
    """Return the states of runs."""
    async with get_client() as client:
        found = [await client.read_flow_run(run) for run in runs]
    return {run.id: run.state for run in found if run.state is not None}


def _run_name(item: _Waiting) -> str:
    """Name a run for a person."""
    what = {"prepare": "prepare", "train": "train", "evaluate": f"evaluate ({item.slot.kind})"}[item.request.kind]
    return f"{what} at {item.slot.site}" + (f", round {item.slot.round}" if item.order else "")


def _site_error(item: _Waiting) -> WardRoundError:
    assert item.ended is not None  # the caller's check
    reason = f"its run ended without an answer: {item.ended[1]}"
    return SiteError(reason, site=item.slot.site, round_number=item.slot.round, stage=item.request.kind)


def _fail(future: Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
