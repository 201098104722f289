"""A hospital's site in a federation: review a request, fetch, have it worked on, protect and deliver.

The worker's process does what needs the network and the keys; it never imports torch. The work itself is
done by a warm process per study (`flows.site_process`), which has the data and no key, no credential and no
address: it reads the fetched weights from a folder and writes its update into one.

::

    <folder>/hospital.yaml  keys/ credential.pem federation.json   what the administrator wrote, and who this is
    <folder>/journal.jsonl                                          what was asked, refused and delivered
    <folder>/studies/<study>/                                       data cache, quarantine list, the site's journal
    <folder>/exchange/<study>/                                      fetched weights, and updates until delivered
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.dispatch import Preparation, SiteSetting
from components.errors import RefusedError, WardRoundError
from components.exchange.sealing import SealedFile, seal_file
from components.exchange.signed import (
    UpdateEnvelope,
    require_newer,
    sign_update,
    update_context,
    verify_order,
    verify_plan,
)
from components.exchange.signing import Signed
from components.exchange.site_request import Prepared, SiteRequest, sign_prepared, verify_call
from components.gateway.client import GatewayClient
from components.gateway.records import SlotKey, slot_of_order
from components.gateway.transport import Route
from components.governance.architecture import architecture_digest
from components.governance.hospital_settings import read_settings, review_roster, review_study
from components.governance.identity_files import SiteFolder
from components.journal import Journal
from components.rounds import Answer, Order, RoundPlan
from components.study import Study
from flows.dispatch import PoolDispatcher
from flows.early import spawn_site_process
from flows.hospital_route import read_route

KEPT = 4  # weights that stay: of the round in work, and of the one before


class Hospital:
    """One enrolled site; the work that a `flows.hospital_worker.HospitalWorker` works for.

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
        self._keys = identity.read_keys()
        self._client = GatewayClient(identity, route)
        self._journal = Journal.open(folder / "journal.jsonl")
        self._warm: dict[str, PoolDispatcher] = {}
        self._turn = asyncio.Lock()
        self._activity: dict[str, Any] = {"state": "idle"}

    def activity(self) -> dict[str, Any]:
        """Return what the site is doing now, fit to leave the hospital."""
        return dict(self._activity)

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._client.pinned.site

    async def carry_out(self, request: SiteRequest) -> str:
        """Do what is asked and deliver it; one request at a time.

        Returns:
            One line for the coordinator.

        Raises:
            RefusedError: If the hospital does not do it; the reason is fit to leave.
            WardRoundError: If it could not be delivered.
        """
        async with self._turn:
            self._activity = {"state": request.kind, "training": request.training, "since": time.time()}
            try:
                return await (self._prepare(request) if request.kind == "prepare" else self._work(request))
            except RefusedError as error:
                self._journal.append("request_refused", kind=request.kind, training=request.training, reason=str(error))
                raise
            finally:
                self._activity = {"state": "idle"}

    def refused(self, run: str, reason: str) -> None:
        """Record that a run was refused before it was a request."""
        self._journal.append("run_refused", run=run, reason=reason)

    def close(self) -> None:
        """End the warm processes and let go of the journal."""
        for warm in self._warm.values():
            warm.close()
        self._warm.clear()
        self._client.close()
        self._journal.close()

    async def _prepare(self, request: SiteRequest) -> str:
        """Open the data and deliver what was found."""
        pinned, study = self._client.pinned, request.study
        call = verify_call(request, pinned.coordinator.keys.signing, federation=pinned.federation)
        review_study(read_settings(self._folder).policy, study)
        found = await self._open(study)
        prepared = Prepared(
            federation=pinned.federation, training=call.training, site=self.site, call=call, preparation=found
        )
        slot = SlotKey(training=call.training, round=1, attempt=1, kind="prepare", site=self.site)
        await self._deliver(slot, None, sign_prepared(prepared, self._keys.signing))
        self._journal.append("preparation_delivered", training=call.training, ready=found.ready, reason=found.reason)
        return f"ready: {found.items.usable} items" if found.items else f"not ready: {found.reason}"

    async def _work(self, request: SiteRequest) -> str:
        """Do an order, and deliver its answer and update."""
        order = self._review(request)
        await asyncio.to_thread(self._fetch, request.study, order.weights_digest)
        answer = await asyncio.wrap_future((await self._process(request.study)).submit(order))
        sealed = await asyncio.to_thread(self._seal, request.study, order, answer)
        envelope = self._envelope(order, answer, sealed)
        slot = slot_of_order(order)
        await self._deliver(slot, self._sealed_file(order) if sealed else None, envelope)
        with suppress(FileNotFoundError):
            self._sealed_file(order).unlink()
        self._journal.append("answer_delivered", training=order.plan.training, round=order.plan.round,
                             kind=slot.kind, status=answer.status, nonce=order.nonce)  # fmt: skip
        self._tidy(request.study, order)
        return f"{answer.status}{': ' + answer.reason if answer.reason else ''}"

    def _tidy(self, study: Study, order: Order) -> None:
        """Drop weights and updates of rounds that are over."""
        exchange = self._exchange(study)
        weights = sorted((exchange / "objects").glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in weights[:-KEPT]:
            path.unlink(missing_ok=True)
        for path in (exchange / "slots" / order.plan.training).glob("*"):
            if path.name.isdigit() and int(path.name) < order.plan.round:
                shutil.rmtree(path, ignore_errors=True)

    def _review(self, request: SiteRequest) -> Order:
        """Return the order of a request, after everything that can be checked without data was checked."""
        assert request.plan is not None  # the request's own check
        pinned, policy = self._client.pinned, read_settings(self._folder).policy
        review_study(policy, request.study)
        plan = verify_plan(
            request.plan,
            pinned.coordinator.keys.signing,
            federation=pinned.federation,
            study_digest=request.study.digest,
            architectures=[self._approved_architecture(request.study)],
            sealing_key=pinned.coordinator.keys.sealing,
        )
        order = verify_order(request.call, pinned.coordinator.keys.signing, plan=plan, site=self.site)
        if (order.kind, order.plan.training) != (request.kind, request.training):
            raise RefusedError("the order is of another kind or training than its request")
        if order.kind == "train":
            review_roster(policy, order.plan.roster)
            require_newer(order.plan, self._last_plan(order.plan.training))
            if self._last_plan(order.plan.training) != order.plan:
                self._journal.append("plan_accepted", training=order.plan.training, plan=order.plan.model_dump())
        return order

    def _approved_architecture(self, study: Study) -> str:
        """Return the architecture this hospital approved for a study: the first it was shown under that name."""
        digest = architecture_digest(study)
        first = self._journal.last("architecture_approved", study=study.study)
        if first is None:
            self._journal.append("architecture_approved", study=study.study, architecture=digest)
            return digest
        return str(first.data["architecture"])

    def _last_plan(self, training: str) -> RoundPlan | None:
        """Return the plan of a training that was accepted last."""
        last = self._journal.last("plan_accepted", training=training)
        return RoundPlan.model_validate(last.data["plan"]) if last else None

    def _fetch(self, study: Study, digest: str) -> None:
        """Bring weights into the study's exchange, unless they are there."""
        target = self._exchange(study) / "objects" / f"{digest}.safetensors"
        if not target.exists():
            self._client.fetch_object(digest, target)

    def _seal(self, study: Study, order: Order, answer: Answer) -> SealedFile | None:
        """Seal an update to the coordinator, for this order."""
        if answer.update is None:
            return None
        plan, name = order.plan, f"{answer.update.file_sha256}.safetensors"
        source = self._exchange(study) / "slots" / plan.training / str(plan.round) / str(plan.attempt) / self.site
        context = update_context(self._client.pinned.federation, order)
        target = self._sealed_file(order)
        target.parent.mkdir(parents=True, exist_ok=True)
        return seal_file(source / name, target, self._client.pinned.coordinator.keys.sealing, context)

    def _sealed_file(self, order: Order) -> Path:
        """Return where the sealed update of an order lies until it is delivered."""
        return self._folder / "outgoing" / f"{order.nonce}.sealed"

    def _envelope(self, order: Order, answer: Answer, sealed: SealedFile | None) -> Signed:
        """Sign what goes into the slot."""
        plan, update = order.plan, answer.update
        envelope = UpdateEnvelope(
            federation=self._client.pinned.federation,
            study_digest=plan.study_digest,
            training=plan.training,
            round=plan.round,
            attempt=plan.attempt,
            site=self.site,
            nonce=order.nonce,
            parent_digest=order.weights_digest,
            payload_digest=update.file_sha256 if update else None,
            sealed_sha256=sealed.sha256 if sealed else None,
            sealed_bytes=sealed.bytes if sealed else None,
            answer=answer,
        )
        return sign_update(envelope, self._keys.signing)

    async def _deliver(self, slot: SlotKey, payload: Path | None, envelope: Signed) -> None:
        await asyncio.to_thread(self._client.deliver, slot, payload, envelope.model_dump_json().encode())

    async def _open(self, study: Study) -> Preparation:
        """Have the study's warm process open the data."""
        return await asyncio.wrap_future((await self._process(study)).prepare(self.site))

    async def _process(self, study: Study) -> PoolDispatcher:
        """Return the warm process of a study; another study's is ended, for their memory's sake."""
        if study.digest not in self._warm:
            for digest in list(self._warm):
                self._warm.pop(digest).close()
            source = read_settings(self._folder).source_of(study.study, self.site)
            state = self._folder / "studies" / study.study
            setting = SiteSetting(study=study, source=source, state=str(state), store=str(self._exchange(study)))
            self._warm[study.digest] = PoolDispatcher(
                {self.site: setting}, spawn_site_process(2, clean=True), {self.site: 1}
            )
        return self._warm[study.digest]

    def _exchange(self, study: Study) -> Path:
        return self._folder / "exchange" / study.study


def open_site(folder: str | os.PathLike[str]) -> Hospital:
    """Open the hospital of a folder.

    Raises:
        WardRoundError: If the folder has no enrolled hospital.
    """
    path = Path(folder)
    if not (path / "federation.json").exists():
        raise WardRoundError(f"no hospital is enrolled in {path}: run  wardround hospital enroll --token TOKEN")
    return Hospital(path, read_route(path))
