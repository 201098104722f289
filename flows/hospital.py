"""A hospital's site in a federation: review a request, fetch, have it worked on, protect and deliver.

The worker's process does what needs the network and the keys; it never imports torch. The work itself is
done by a warm process per study (`flows.site_process`), which has the data and no key, no credential and no
address: it reads the fetched weights from a folder and writes its update into one.

::

    <folder>/hospital.yaml  keys/ credential.pem federation.json   what the administrator wrote, and who this is
    <folder>/journal.jsonl                                          what was asked, refused and delivered
    <folder>/studies/<study>/                                       data cache, quarantine list, the site's journal
    <folder>/exchange/<study>/                                      fetched weights, and updates until delivered
    <folder>/analytics/                                             what was told in analyses, and what no row can be
                                                                    read from: fingerprints of each cohort
    <folder>/outgoing/                                              sealed updates and answers until delivered
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from components.analytics.records import AnalysisAnswer
from components.dispatch import DeskQuestion, DeskSetting, Preparation, SiteSetting
from components.errors import NoDataError, RefusedError, SeenRoundError, WardRoundError, fit_to_leave
from components.exchange.protocol import PROTOCOL
from components.exchange.questions import QuestionCall, QuestionRequest, claimed_question
from components.exchange.signed import claimed_order
from components.exchange.signing import canonical
from components.exchange.site_request import (
    AnyRequest,
    Call,
    SiteRequest,
    claimed_call,
    claimed_work,
    parse_request,
)
from components.gateway.client import GatewayClient
from components.gateway.records import Activity, SlotKey, WorkItem, own_version
from components.gateway.transport import Route
from components.governance.hospital_settings import HospitalSettings, read_settings
from components.governance.identity_files import SiteFolder
from components.journal import Journal
from components.redaction import redact
from components.rounds import SEEN, Answer, Order
from components.study import Study
from flows.activity import Activities, Piece
from flows.dispatch import PoolDispatcher
from flows.hospital_outbox import Outbox
from flows.hospital_review import Review
from flows.hospital_route import read_route
from flows.warm import WarmProcesses

KEPT = 4  # weights that stay: of the round in work, and of the one before
REMEMBERED = 64  # requests that were dealt with
log = logging.getLogger("wardround.hospital")


class Hospital:
    """One enrolled site.

    What it is asked reaches it in the gateway's list of work, which is rung for and brings it at once. Who makes a
    run of a request in its pool of Prefect's has it done as well, once: what is under way or done is found.

    Args:
        folder: The hospital's folder.
        route: The way to the gateway.

    Guarantees:
        Nothing is read of the data before the coordinator's signature, the hospital's policy, the
        architecture and the order of rounds were checked. What leaves is an answer of counts and sums, a
        sealed update, and reasons without paths or values.
    """

    def __init__(self, folder: Path, route: Route | None = None) -> None:
        self._folder = folder
        identity = SiteFolder(folder)
        self._client = GatewayClient(identity, route)
        self._outbox = Outbox(folder / "outgoing", self._client, identity.read_keys())
        self._journal = Journal.open(folder / "journal.jsonl")
        self._review = Review(folder, self._journal)
        self._activities = Activities()
        self._warm = WarmProcesses(self._journal, progressed=self._activities.progressed)
        # One piece of work of a study at a time, whichever version of it: they share its folders.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._fetching = threading.Lock()  # one at a time: two would write into one file
        self._works: OrderedDict[str, asyncio.Task[str]] = OrderedDict()
        self._listed: set[str] = set()  # of the works, those that the gateway's list asked for

    def activity(self) -> Activity:
        """Return what the site is doing now, fit to leave the hospital."""
        return self._activities.now()

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._client.pinned.site

    def take(self, items: Sequence[WorkItem]) -> None:
        """Begin what the gateway lists, and end what it listed before and does not any more."""
        wanted = set()
        for item in items:
            try:
                request = parse_request(item.request, site=self.site)
            except RefusedError as error:
                key = hashlib.sha256(item.request.encode()).hexdigest()
                wanted.add(key)
                if key not in self._works:
                    self.refused(item.slot.folder.as_posix(), str(error))
                    self._begin(key, self._answer_unread(item.request, error))
                continue
            key = _key(request)
            wanted.add(key)
            if key not in self._works:
                self._begin(key, self._answer(key, request))
            elif self._works[key].done():  # asked anew, or its answer was on its way when the list was made
                self._begin(key, self._answer_again(key, request, item.slot))
        for key in self._listed - wanted:
            work = self._works.get(key)
            if work is not None and not work.done():
                self._journal.append("work_withdrawn", request=key)
                work.cancel()
        self._listed = wanted

    async def carry_out(self, request: AnyRequest) -> str:
        """Do what is asked and deliver it, or wait until it is done.

        Returns:
            One line for the coordinator.

        Raises:
            RefusedError: If the hospital does not do it; the reason is fit to leave.
            WardRoundError: If it could not be done or delivered.
        """
        key = _key(request)
        work = self._works.get(key) or self._begin(key, self._answer(key, request))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not work.cancelled():
                raise
            raise RefusedError("it was withdrawn") from None

    def refused(self, run: str, reason: str) -> None:
        """Record that something was refused before it was a request."""
        self._journal.append("run_refused", run=run, reason=reason)

    def close(self) -> None:
        """End the warm processes and let go of the journal."""
        self._warm.close()
        self._client.close()
        self._journal.close()

    def _begin(self, key: str, work: Coroutine[Any, Any, str]) -> asyncio.Task[str]:
        """Begin a piece of work, and forget those that were dealt with long ago."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_note)
        self._works[key] = task
        for old in [old for old, done in self._works.items() if done.done()][:-REMEMBERED]:
            del self._works[old]
        return task

    async def _answer(self, key: str, request: AnyRequest) -> str:
        """Do what is asked; that it is not done, and why, is an answer as well, to those whom the gateway lists.

        What could not be answered, or is not listed yet, is begun again the next time it is listed. Whoever can make
        runs in Prefect and no more fills no slot with a refusal.
        """
        try:
            return await self._do(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, WardRoundError):
                log.exception("a site's work ended with an error")
            if key not in self._listed:
                self._works.pop(key, None)
                raise
            reason = redact(fit_to_leave(error), keep=self._known(request))
            try:
                await self._say_no(request, reason, error)
            except WardRoundError as undelivered:
                log.warning("nobody takes the answer that something was not done: %s", undelivered)
                self._works.pop(key, None)
            raise

    async def _answer_unread(self, text: str, error: RefusedError) -> str:
        """Answer what this version cannot read, as far as it can tell what it is: nobody waits for it then."""
        reason = f"{error}; this hospital runs WardRound {own_version()} (protocol {PROTOCOL}): is it an older one?"
        claimed = claimed_work(text, site=self.site)
        if isinstance(claimed, QuestionCall):
            await self._outbox.deliver_reply(claimed, _no_answer(claimed, error, reason))
        elif isinstance(claimed, Call):
            await self._outbox.deliver_preparation(claimed, Preparation(site=self.site, ready=False, reason=reason))
        elif claimed is not None:
            await self._outbox.deliver_answer(claimed, _refusal(claimed, error, reason), None)
        raise error

    async def _answer_again(self, key: str, request: AnyRequest, slot: SlotKey) -> str:
        """Do what was done before once more, if its answer is not there any more."""
        if await self._outbox.is_delivered(slot):
            return "delivered before"
        return await self._answer(key, request)

    async def _do(self, request: AnyRequest) -> str:
        """Do what is asked and deliver it; of one study one thing at a time."""
        turn = self._turns.setdefault(request.study.study, asyncio.Lock())
        with self._activities.piece(request.kind, request.training) as piece:
            async with turn:
                piece.begin()
                try:
                    if isinstance(request, QuestionRequest):
                        return await self._ask(request, piece)
                    do = self._prepare if request.kind == "prepare" else self._work
                    return await do(request, piece)
                except RefusedError as error:
                    about = {"kind": request.kind, "training": request.training, "reason": str(error)}
                    self._journal.append("request_refused", **about)
                    raise

    async def _say_no(self, request: AnyRequest, reason: str, error: Exception) -> None:
        """Deliver that a request is not carried out; it may be one that nobody signed, and then names nothing open."""
        if isinstance(request, QuestionRequest):
            question = claimed_question(request.call)
            if question is not None:
                await self._outbox.deliver_reply(question, _no_answer(question, error, reason))
            return
        if request.kind == "prepare":
            call = claimed_call(request)
            if call is not None:
                has_data = not isinstance(error, NoDataError)
                found = Preparation(site=self.site, ready=False, reason=reason, has_data=has_data)
                await self._outbox.deliver_preparation(call, found)
            return
        order = claimed_order(request.call)
        if order is not None:
            await self._outbox.deliver_answer(order, _refusal(order, error, reason), None)

    async def _ask(self, request: QuestionRequest, piece: Piece) -> str:
        """Have a question of an analysis answered, and deliver the answer."""
        study, call, settings = request.study, self._review.question(request, self._client.pinned), self._settings()
        table, policy = settings.table_of(study, self.site), settings.disclosure
        setting = DeskSetting(site=self.site, state=str(self._folder / "analytics"))
        question = DeskQuestion(
            study=study, analysis=call.training, file=str(table), policy=policy, request=call.question
        )
        piece.wait()
        async with self._warm.use(setting, settings, kind=request.kind) as process:
            piece.begin()
            answer = await asyncio.wrap_future(process.ask(self.site, question))
        said = await self._outbox.deliver_reply(call, answer)
        about = {"analysis": call.training, "number": call.round, "status": answer.status, "reason": answer.reason}
        self._journal.append("reply_delivered", **about, nonce=call.nonce, **({} if said else {"confirmed": False}))
        return f"{answer.status}{': ' + answer.reason if answer.reason else ''}"

    async def _prepare(self, request: SiteRequest, piece: Piece) -> str:
        """Open the data and deliver what was found."""
        call = self._review.call(request, self._client.pinned)
        async with self._process(request, piece) as process:
            found = await asyncio.wrap_future(process.prepare(self.site))
        await self._outbox.deliver_preparation(call, found)
        self._journal.append("preparation_delivered", training=call.training, ready=found.ready, reason=found.reason)
        if not found.ready:
            return f"not ready: {found.reason}"
        said = "told what the study leaves to its tables"
        return f"ready: {found.items.usable} items" if found.items else said

    async def _work(self, request: SiteRequest, piece: Piece) -> str:
        """Do an order, and deliver its answer and update."""
        study, order = request.study, self._review.order(request, self._client.pinned)
        await asyncio.to_thread(self._fetch, study, order.weights_digest)
        async with self._process(request, piece) as process:
            answer = await asyncio.wrap_future(process.submit(order))
        said = await self._outbox.deliver_answer(order, answer, self._update(study, order, answer))
        self._journal.append("answer_delivered", training=order.plan.training, round=order.plan.round,
                             kind=request.kind if request.kind == "train" else order.split, status=answer.status,
                             nonce=order.nonce, **({} if said else {"confirmed": False}))  # fmt: skip
        self._tidy(study, order)
        return f"{answer.status}{': ' + answer.reason if answer.reason else ''}"

    def _fetch(self, study: Study, digest: str) -> None:
        """Bring weights into the study's exchange, unless they are there; of work that was withdrawn it goes on."""
        target = self._exchange(study) / "objects" / f"{digest}.safetensors"
        with self._fetching:
            if not target.exists():
                self._client.fetch_object(digest, target)

    def _update(self, study: Study, order: Order, answer: Answer) -> Path | None:
        """Return where the site's process put the update that an answer names."""
        if answer.update is None:
            return None
        plan, name = order.plan, f"{answer.update.file_sha256}.safetensors"
        slot = self._exchange(study) / "slots" / plan.training / str(plan.round) / str(plan.attempt) / self.site
        return slot / name

    def _tidy(self, study: Study, order: Order) -> None:
        """Drop weights and updates of rounds that are over."""
        exchange = self._exchange(study)
        weights = sorted((exchange / "objects").glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in weights[:-KEPT]:
            path.unlink(missing_ok=True)
        for path in (exchange / "slots" / order.plan.training).glob("*"):
            if path.name.isdigit() and int(path.name) < order.plan.round:
                shutil.rmtree(path, ignore_errors=True)

    @asynccontextmanager
    async def _process(self, request: SiteRequest, piece: Piece) -> AsyncIterator[PoolDispatcher]:
        """Have the warm process of a study; until its place is free the piece of work waits."""
        study, settings = request.study, self._settings()
        source, state = settings.source_of(study.study, self.site), self._folder / "studies" / study.study
        setting = SiteSetting(study=study, source=source, state=str(state), store=str(self._exchange(study)))
        piece.wait()
        async with self._warm.use(setting, settings, kind=request.kind) as process:
            piece.begin()
            yield process

    def _settings(self) -> HospitalSettings:
        return read_settings(self._folder)

    def _known(self, request: AnyRequest) -> list[str]:
        """Return what may stand in a reason: the coordinator wrote it."""
        return [self.site, request.training, request.study.study, request.study.digest[:12]]

    def _exchange(self, study: Study) -> Path:
        return self._folder / "exchange" / study.study


def _refusal(order: Order, error: Exception, reason: str) -> Answer:
    """Return the answer that an order is not carried out."""
    refused = isinstance(error, RefusedError)
    stage = SEEN if isinstance(error, SeenRoundError) else "review" if refused else order.kind
    return Answer(
        kind=order.kind, site=order.site, round=order.plan.round, nonce=order.nonce,
        status="refused" if refused else "failed", stage=stage, reason=reason,
    )  # fmt: skip


def _no_answer(call: QuestionCall, error: Exception, reason: str) -> AnalysisAnswer:
    """Return the answer that a question is not answered."""
    return AnalysisAnswer(
        site=call.site, request_digest=hashlib.sha256(call.question.encode()).hexdigest(),
        status="refused" if isinstance(error, RefusedError) else "failed", reason=reason,
        has_data=not isinstance(error, NoDataError),
    )  # fmt: skip


def _key(request: AnyRequest) -> str:
    """Return what a request is known by, whichever way it came: PostgreSQL hands JSON back in an order of its own."""
    return hashlib.sha256(canonical(request.model_dump(mode="json"))).hexdigest()


def _note(work: asyncio.Task[str]) -> None:
    """Look at how a piece of work ended, so that asyncio does not complain that nobody did."""
    if not work.cancelled() and work.exception() is not None:
        log.warning("a site's work was not done: %s", work.exception())


def open_site(folder: str | os.PathLike[str]) -> Hospital:
    """Open the hospital of a folder.

    Raises:
        WardRoundError: If the folder has no enrolled hospital.
    """
    path = Path(folder)
    if not (path / "federation.json").exists():
        raise WardRoundError(f"no hospital is enrolled in {path}: run  wardround hospital enroll --token TOKEN")
    return Hospital(path, read_route(path))
