"""The dispatcher of a federation: a training's orders and weights go out, preparations and sealed updates come back.

How they do is `flows.errands`.
"""

from __future__ import annotations

import secrets
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from components.dispatch import Dispatcher, InitialModel, Preparation
from components.exchange.sealing import open_file, sealed_size
from components.exchange.signed import SignedOrder, SignedPlan, sign_order, sign_plan, update_context, verify_update
from components.exchange.signing import Signed, read_signed
from components.exchange.site_request import Call, SiteRequest, sign_call, verify_prepared
from components.federation import slot_of
from components.files import has_digest, make_folder, storage_errors
from components.gateway.records import SlotKey, slot_of_order
from components.governance.architecture import architecture_digest
from components.rounds import Answer, Order
from components.study import Study
from components.table_sums import Fitted
from flows.coordinator import CoordinatorSide
from flows.errands import Errand, Errands
from flows.site_runs import SiteRuns

# Weights that hospitals may read beyond those they are asked to: of the round in work, and of the one before.
PUBLISHED = 4
HEADER_BYTES = 1 << 20  # of an update, beyond the weights it began with


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
        self._plans: dict[str, Signed] = {}
        self._errands = Errands(side, runs)

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
        read, shown = partial(self._read_preparation, call), (f"prepare at {site}", None)
        return self._errands.send(Errand(slot, request, read, _end_of, Future(), shown), max_bytes=1)

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
        # An evaluation is shown by its round; what comes before the first round is shown under none.
        shown: tuple[str, int | None] | None = None
        if order.plan.instructions.get("components"):
            shown = (f"principal components at {slot.site}, {slot.round}", None)
        elif order.kind == "train":
            shown = (f"train at {slot.site}, round {slot.round}", slot.round)
        read = partial(self._read_answer, order, slot)
        item = Errand(slot, request, read, _end_of, Future(), shown, reads=order.weights_digest)
        return self._errands.send(item, sealed_size(most))

    def begin_round(self, number: int, run: UUID) -> None:
        """See `components.dispatch.Dispatcher`."""
        self._runs.begin_round(number, run)

    def say(self, number: int, text: str) -> None:
        """Show in Prefect what a round waits for; nothing any more if the text is empty."""
        self._runs.say(number, text)

    def withdraw(self, order: Order) -> None:
        """Have a site stop what it was ordered, and take no answer any more."""
        self._errands.withdraw(slot_of_order(order))

    def close(self) -> None:
        """Take no more answers; the sites' work goes on, and what they deliver is collected by the next start."""
        self.end()
        self._local.close()

    def end(self) -> None:
        """Take no more answers, as `close`; what builds the network here goes on."""
        self._errands.stop()
        if self._side.tenure is None or not self._side.tenure.lost:
            while self._published:
                self._withdraw(self._published.pop())
        self._errands.close()

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
            read = self._errands.read
            for old in [old for old in self._published[:-PUBLISHED] if old not in read]:
                self._published.remove(old)
                self._withdraw(old)

    def _withdraw(self, digest: str) -> None:
        """Let nobody read weights any more."""
        self._errands.clerk.do(self._side.grants.forbidding(digest))
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

    def _read_preparation(self, call: Call, text: bytes) -> Preparation:
        """Return what a site found, verified."""
        return verify_prepared(read_signed(text), self._side.signing_key(call.site), call)

    def _read_answer(self, order: Order, slot: SlotKey, text: bytes) -> Answer:
        """Return a site's answer, verified; an update is opened into its place."""
        key, signed = self._side.signing_key(order.site), read_signed(text)
        answer = verify_update(signed, key, federation=self._side.federation, order=order).answer
        if answer.update is not None:
            self._open_update(order, slot, answer)
        return answer

    def _open_update(self, order: Order, slot: SlotKey, answer: Answer) -> None:
        """Open a sealed update into the store's slot."""
        assert answer.update is not None  # the caller's check
        place = slot_of(order.plan, order.site)
        target = self._store.update_path(place, answer.update.file_sha256)
        context = update_context(self._side.federation, order)
        open_file(self._side.sealed.payload(slot), target, self._side.secrets.sealing, context, self._most_bytes(order))
        self._store.submit(place, answer)


def _end_of(result: Preparation | Answer) -> State[None]:
    """Return the state in which the run of a piece of work ends."""
    if isinstance(result, Preparation):
        if result.ready:
            return Completed(message=f"ready: {result.items.usable} items" if result.items else "ready")
        return Failed(message=f"not ready: {result.reason}")
    if result.status == "done":
        return Completed(message="done")
    return Failed(name="Refused" if result.status == "refused" else None, message=result.reason)
