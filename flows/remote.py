"""The dispatcher of a federation: orders go out through the gateway's list of work, answers come back sealed.

What counts is the envelope in an order's slot behind the gateway. Prefect shows what the hospitals are asked
(`flows.site_runs`); a site works, and answers, while Prefect is away.
"""

from __future__ import annotations

import logging
import secrets
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from components.dispatch import Dispatcher, InitialModel, Preparation
from components.errors import LeaseLostError, RefusedError, ServiceError, WardRoundError
from components.exchange.sealing import open_file, sealed_size
from components.exchange.signed import SignedOrder, SignedPlan, sign_order, sign_plan, update_context, verify_update
from components.exchange.signing import Signed, read_signed
from components.exchange.site_request import Call, SiteRequest, request_text, sign_call, verify_prepared
from components.federation import slot_of
from components.files import has_digest, make_folder, storage_errors
from components.gateway.records import SlotKey, slot_of_order
from components.governance.architecture import architecture_digest
from components.rounds import Answer, Order
from components.study import Study
from components.table_sums import Fitted
from flows.clerk import Clerk
from flows.coordinator import CoordinatorSide
from flows.site_runs import FLOWS, SiteRun, SiteRuns

LOOK_EVERY_S = 0.02
AGAIN_S = 1.0
# Weights that hospitals may read beyond those they are asked to: of the round in work, and of the one before.
PUBLISHED = 4
HEADER_BYTES = 1 << 20  # of an update, beyond the weights it began with
log = logging.getLogger("wardround.coordinator")


@dataclass
class _Waiting:
    """One piece of work that a site was asked for; a call to prepare, or an order."""

    slot: SlotKey
    request: SiteRequest
    asked: Call | Order
    future: Future[Any]

    @property
    def key(self) -> str:
        """What its run in Prefect is known by."""
        return self.slot.folder.as_posix()


class RemoteDispatcher:
    """Sends a training's orders to its hospitals.

    Args:
        study: The study.
        side: The coordinator's side of the federation.
        training: Identifier that preparations are asked for under.
        local: Builds and exports the network on this machine.
        runs: Shows what is asked in Prefect.
    """

    def __init__(self, study: Study, side: CoordinatorSide, training: str, local: Dispatcher, runs: SiteRuns) -> None:
        self._study, self._side, self._training, self._local = study, side, training, local
        self._runs, self._store = runs, side.store(study.study)
        self._published: list[str] = []
        self._lock, self._waiting = threading.Lock(), dict[SlotKey, _Waiting]()
        self._closed, self._clerk = threading.Event(), Clerk(side.grants, side.tenure.guard if side.tenure else None)
        self._plans: dict[str, Signed] = {}
        self._watching = threading.Thread(target=self._watch, daemon=True, name="answers")
        self._watching.start()

    def initialise(self, study: Study, fitted: Fitted | None = None) -> Future[InitialModel]:
        """See `components.dispatch.Dispatcher`."""
        return self._local.initialise(study, fitted)

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
        return self._send(_Waiting(slot, request, call, Future()), max_bytes=1)

    def submit(self, order: Order) -> Future[Answer]:
        """See `components.dispatch.Dispatcher`."""
        self._publish(order.weights_digest)
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
        return self._send(_Waiting(slot, request, order, Future()), sealed_size(most), reads=order.weights_digest)

    def begin_round(self, number: int, run: UUID) -> None:
        """See `components.dispatch.Dispatcher`."""
        self._runs.begin_round(number, run)

    def say(self, number: int, text: str) -> None:
        """Show in Prefect what a round waits for; nothing any more if the text is empty."""
        self._runs.say(number, text)

    def withdraw(self, order: Order) -> None:
        """Have a site stop what it was ordered, and take no answer any more."""
        self._side.require_lead()
        slot = slot_of_order(order)
        with self._lock:
            item = self._waiting.pop(slot, None)
        self._close(slot, wake=True, discard=True)
        if item is not None:
            self._runs.ended(item.key, Cancelled(message="withdrawn by the coordinator"))
            item.future.cancel()

    def close(self) -> None:
        """Take no more answers; the sites' work goes on, and what they deliver is collected by the next start."""
        self._closed.set()
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for item in waiting:
            _fail(item.future, WardRoundError("the training was ended here"))
        self._watching.join()
        if self._side.tenure is None or not self._side.tenure.lost:
            while self._published:
                self._withdraw(self._published.pop())
        self._clerk.close()
        self._runs.close()
        self._local.close()

    def _publish(self, digest: str) -> None:
        """Put weights where the gateway finds them; those that nobody is asked to read any more are withdrawn."""
        shared, own = self._side.exchange / "objects" / f"{digest}.safetensors", self._store.path(digest)
        with storage_errors("write", shared):
            make_folder(shared.parent)
            if shared.exists() and not shared.samefile(own) and not has_digest(shared, digest):
                shared.unlink()  # damaged; the store's were mended, and are another file now
            with suppress(FileExistsError):
                shared.hardlink_to(own)
        if digest not in self._published:
            self._published.append(digest)
            with self._lock:
                read = {item.asked.weights_digest for item in self._waiting.values() if isinstance(item.asked, Order)}
            for old in [old for old in self._published[:-PUBLISHED] if old not in read]:
                self._published.remove(old)
                self._withdraw(old)

    def _withdraw(self, digest: str) -> None:
        """Let nobody read weights any more."""
        self._clerk.do(self._side.grants.forbidding(digest))
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

    def _send(self, item: _Waiting, max_bytes: int, reads: str | None = None) -> Future[Any]:
        """Ask for a piece of work, and show it; what lies in its slot already is taken at once."""
        text = request_text(item.request)
        with self._lock:
            self._waiting[item.slot] = item
        self._clerk.do(self._side.grants.opening(item.slot, max_bytes=max_bytes, request=text, reads=reads))
        if item.request.kind in FLOWS and self._side.sealed.envelope(item.slot) is None:
            number = item.slot.round if isinstance(item.asked, Order) else None
            self._runs.show(SiteRun(_run_name(item), item.key, item.request, number))
        return item.future

    def _watch(self) -> None:
        """Take answers as they come."""
        while not self._closed.wait(LOOK_EVERY_S):
            with self._lock:
                waiting = list(self._waiting.values())
            for item in waiting:
                if self._closed.is_set():
                    return
                try:
                    self._take(item)
                except LeaseLostError:
                    return
                except Exception:  # the gateway's database may be away for a moment: looked at again
                    log.exception("an answer of %s could not be taken", item.slot.site)
                    self._closed.wait(AGAIN_S)

    def _take(self, item: _Waiting) -> None:
        """Take an answer if it is there."""
        try:
            text = self._side.sealed.envelope(item.slot)
            if text is None:
                return
            self._side.require_lead()
            result = self._read_any(item, text)
        except (ServiceError, LeaseLostError):  # no fault of the site
            raise
        except WardRoundError as error:
            # What was refused nobody takes any more, and the journal has the reason.
            self._settle(item, discard=isinstance(error, RefusedError) and not self._side.keep_sealed)
            _fail(item.future, error)
            self._runs.ended(item.key, Failed(name="Refused", message=f"the answer is not taken: {error}"))
            return
        if not item.future.done():
            item.future.set_result(result)  # the round goes on; the slot is tidied up beside it
        self._settle(item, discard=not self._side.keep_sealed)  # what it held is in the store, or in the journal
        self._runs.ended(item.key, _end_of(result))

    def _read_any(self, item: _Waiting, text: bytes) -> Any:
        """Return what a site delivered, verified; whatever it is that cannot be read is refused."""
        try:
            return self._read(item, text)
        except WardRoundError:
            raise
        except Exception as error:
            log.exception("an answer of %s cannot be read", item.slot.site)
            raise RefusedError(f"the answer of {item.slot.site} cannot be read ({type(error).__name__})") from error

    def _read(self, item: _Waiting, text: bytes) -> Any:
        """Return what a site delivered, verified; an update is opened into its place."""
        key, signed = self._side.signing_key(item.slot.site), read_signed(text)
        if isinstance(item.asked, Call):
            return verify_prepared(signed, key, item.asked)
        answer = verify_update(signed, key, federation=self._side.federation, order=item.asked).answer
        if answer.update is not None:
            self._open_update(item.asked, item.slot, answer)
        return answer

    def _open_update(self, order: Order, slot: SlotKey, answer: Answer) -> None:
        """Open a sealed update into the store's slot."""
        assert answer.update is not None  # the caller's check
        place = slot_of(order.plan, order.site)
        target = self._store.update_path(place, answer.update.file_sha256)
        context = update_context(self._side.federation, order)
        open_file(self._side.sealed.payload(slot), target, self._side.secrets.sealing, context, self._most_bytes(order))
        self._store.submit(place, answer)

    def _settle(self, item: _Waiting, *, discard: bool) -> None:
        """Wait for a piece of work no more, and close its slot."""
        self._close(item.slot, wake=False, discard=discard)
        with self._lock:
            self._waiting.pop(item.slot, None)

    def _close(self, slot: SlotKey, *, wake: bool, discard: bool) -> None:
        """Close a slot, and then drop what lies in it: until it is closed, a site may bring what it brought again."""
        then = partial(self._side.sealed.discard, slot) if discard else None
        self._clerk.do(self._side.grants.closing(slot, wake=wake), then)


def _run_name(item: _Waiting) -> str:
    """Name a run for a person."""
    if isinstance(item.asked, Call):
        return f"prepare at {item.slot.site}"
    return f"train at {item.slot.site}, round {item.slot.round}"


def _end_of(result: Preparation | Answer) -> State[None]:
    """Return the state in which the run of a piece of work ends."""
    if isinstance(result, Preparation):
        if result.ready:
            return Completed(message=f"ready: {result.items.usable} items" if result.items else "ready")
        return Failed(message=f"not ready: {result.reason}")
    if result.status == "done":
        return Completed(message="done")
    return Failed(name="Refused" if result.status == "refused" else None, message=result.reason)


def _fail(future: Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
