"""How answers leave a hospital: sealed, signed, and brought to their slot for as long as somebody wants them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from components.analytics.records import AnalysisAnswer
from components.dispatch import Preparation
from components.errors import RefusedError, ServiceError
from components.exchange.questions import MOST_BYTES, QuestionCall, reply_context, reply_to, sign_reply
from components.exchange.sealing import SealedFile, seal_file
from components.exchange.signed import UpdateEnvelope, sign_update, update_context
from components.exchange.signing import Signed
from components.exchange.site_request import Call, Prepared, sign_prepared
from components.failpoints import failpoint
from components.files import storage_errors, write_whole
from components.gateway.ahead import UploadAhead
from components.gateway.client import PART_BYTES, GatewayClient
from components.gateway.records import SlotKey, UploadStatus, slot_of_order, slot_of_question
from components.governance.identity_files import SiteKeys
from components.rounds import Answer, Order

AGAIN_S = 2.0
log = logging.getLogger("wardround.hospital")


class Outbox:
    """What leaves one hospital; the folder holds sealed updates until they are delivered.

    What a process that was killed had sealed is dropped: it is sealed anew if it is still wanted.

    Args:
        folder: The folder ``outgoing``.
        client: The way to the gateway.
        keys: The site's own.
    """

    def __init__(self, folder: Path, client: GatewayClient, keys: SiteKeys) -> None:
        self._folder, self._client, self._keys = folder, client, keys
        for left in (*folder.glob("*.sealed"), *folder.glob("*.json")):
            left.unlink()
        self._lock = threading.Lock()  # work that was withdrawn may still be sending when the next has something

    async def is_delivered(self, slot: SlotKey) -> bool:
        """Return whether a slot is sealed, or takes nothing any more."""
        try:
            return (await asyncio.to_thread(self._status, slot)).submitted
        except RefusedError:
            return True

    async def deliver_preparation(self, call: Call, found: Preparation) -> None:
        """Sign what was found and bring it to the slot of the call."""
        site = self._client.pinned.site
        prepared = Prepared(
            federation=self._client.pinned.federation, training=call.training, site=site, call=call, preparation=found
        )
        slot = SlotKey(training=call.training, round=1, attempt=1, kind="prepare", site=site)
        await self._bring(slot, None, sign_prepared(prepared, self._keys.signing))

    async def deliver_answer(self, order: Order, answer: Answer, update: Path | None) -> bool:
        """Seal an update to the coordinator, sign the answer, and bring both to the slot of the order.

        Args:
            order: What was asked.
            answer: What is answered.
            update: The update that the answer names, safetensors; None if it names none.

        Returns:
            Whether the gateway said that it has it; see `GatewayClient.deliver`.

        Raises:
            RefusedError: If the gateway does not take it; the slot may be closed.
            StorageError: If the update cannot be read or sealed.
        """
        sealed = None
        if update is not None:
            sealed = await asyncio.to_thread(self._seal_and_send, order, update)
            failpoint("hospital.sealed")
        file = self._sealed_file(order.nonce)
        try:
            envelope = self._envelope(order, answer, sealed)
            return await self._bring(slot_of_order(order), file if sealed else None, envelope)
        finally:
            file.unlink(missing_ok=True)

    async def deliver_reply(self, call: QuestionCall, answer: AnalysisAnswer) -> bool:
        """Seal an answer to the coordinator, sign it, and bring both to the slot of the question.

        Raises:
            RefusedError: If the answer is too long, or the gateway does not take it.
            StorageError: If it cannot be sealed.
        """
        text = answer.model_dump_json().encode()
        if len(text) > MOST_BYTES:
            raise RefusedError(f"the answer has {len(text)} bytes, at most {MOST_BYTES} are sent: a coarser grid helps")
        plain, file = self._folder / f"{call.nonce}.json", self._sealed_file(call.nonce)
        try:
            await asyncio.to_thread(write_whole, plain, text)
            sealed = await asyncio.to_thread(self._seal, call.nonce, plain, reply_context(call))
            reply = reply_to(
                call,
                answer_sha256=hashlib.sha256(text).hexdigest(),
                sealed_sha256=sealed.sha256,
                sealed_bytes=sealed.bytes,
            )
            return await self._bring(slot_of_question(call), file, sign_reply(reply, self._keys.signing))
        finally:
            for left in (plain, file):
                left.unlink(missing_ok=True)

    def _seal_and_send(self, order: Order, update: Path) -> SealedFile:
        """Seal an update; a large one is already on its way meanwhile, as far as the gateway takes it."""
        with storage_errors("read", update):
            size = update.stat().st_size
        context = update_context(self._client.pinned.federation, order)
        if size <= PART_BYTES:
            return self._seal(order.nonce, update, context)
        with self._lock, UploadAhead(self._client, slot_of_order(order)) as upload:
            return self._seal(order.nonce, update, context, beside=upload.take)

    def _seal(
        self, nonce: str, file: Path, context: bytes, beside: Callable[[bytes], None] | None = None
    ) -> SealedFile:
        """Seal a file, for this piece of work and the coordinator only."""
        recipient = self._client.pinned.coordinator.keys.sealing
        return seal_file(file, self._sealed_file(nonce), recipient, context, beside=beside)

    def _sealed_file(self, nonce: str) -> Path:
        """Return where what is sealed for a piece of work lies until it is delivered."""
        return self._folder / f"{nonce}.sealed"

    def _envelope(self, order: Order, answer: Answer, sealed: SealedFile | None) -> Signed:
        """Sign what goes into the slot."""
        plan, update = order.plan, answer.update
        envelope = UpdateEnvelope(
            federation=self._client.pinned.federation,
            study_digest=plan.study_digest,
            training=plan.training,
            round=plan.round,
            attempt=plan.attempt,
            site=self._client.pinned.site,
            nonce=order.nonce,
            parent_digest=order.weights_digest,
            payload_digest=update.file_sha256 if update else None,
            sealed_sha256=sealed.sha256 if sealed else None,
            sealed_bytes=sealed.bytes if sealed else None,
            answer=answer,
        )
        return sign_update(envelope, self._keys.signing)

    async def _bring(self, slot: SlotKey, payload: Path | None, envelope: Signed) -> bool:
        """Deliver; a gateway that is away is waited for, until the work is withdrawn."""
        while True:
            try:
                return await asyncio.to_thread(self._send, slot, payload, envelope.model_dump_json().encode())
            except ServiceError as error:
                log.warning("an answer waits for the gateway: %s", error)
                await asyncio.sleep(AGAIN_S)

    def _status(self, slot: SlotKey) -> UploadStatus:
        with self._lock:
            return self._client.status(slot)

    def _send(self, slot: SlotKey, payload: Path | None, envelope: bytes) -> bool:
        with self._lock:
            return self._client.deliver(slot, payload, envelope)
