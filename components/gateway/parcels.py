"""What is fetched and brought: granted objects out, sealed payloads into the caller's own open slots."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from fastapi.concurrency import contextmanager_in_threadpool
from pydantic import ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from components.errors import RefusedError
from components.exchange.keys import VerifyKey
from components.exchange.questions import REPLY
from components.exchange.signed import UPDATE
from components.exchange.signing import read_signed, verify_record
from components.exchange.site_request import PREPARATION
from components.gateway.database import Database
from components.gateway.door import GoneError
from components.gateway.endpoints import Endpoint, answer_with, caller_of, read_body
from components.gateway.grants import Grants
from components.gateway.identity import Caller
from components.gateway.objects import object_response
from components.gateway.records import Number, Record, SlotKey, UploadStatus
from components.gateway.refusals import RefusalError
from components.gateway.settings import Settings
from components.gateway.sites import Sites
from components.gateway.slots import Part, SealedSlots
from components.rounds import SHA256_PATTERN, Name, Sha256

_DIGEST = re.compile(SHA256_PATTERN)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}", flags=re.ASCII)
_WRITE = 1 << 20
_SIGNED = {"prepare": PREPARATION, "analyse": REPLY}  # what a site signs, by the kind of the slot


class EnvelopeHead(Record):
    """What of a site's envelope the door checks; the coordinator checks all of it (`components.exchange.signed`)."""

    model_config = ConfigDict(extra="ignore")

    protocol: int
    federation: Name
    training: Name
    round: Number
    attempt: Number
    site: Name
    sealed_sha256: Sha256 | None = None
    sealed_bytes: int | None = None


class Parcels:
    """The routes of the exchange.

    Args:
        settings: Of the gateway.
        database: Of the gateway.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._grants, self._sites = Grants(database), Sites(database)
        self._slots = SealedSlots(settings.exchange / "sealed")

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The routes."""
        limits, slot = self._settings.limits, "/v1/slots/{training}/{round}/{attempt}/{kind}/{site}"
        return [
            Endpoint("GET", "/v1/objects/{digest}", self.object),
            Endpoint("HEAD", "/v1/objects/{digest}", self.object),
            Endpoint("GET", f"{slot}/upload", self.status),
            Endpoint("PUT", f"{slot}/upload", self.upload, limits.chunk_bytes),
            Endpoint("POST", f"{slot}/submit", self.submit, limits.envelope_bytes),
        ]

    async def object(self, request: Request) -> Response:
        """Hand an object out that was granted to the caller."""
        digest, site = request.path_params["digest"], caller_of(request).site
        if not _DIGEST.fullmatch(digest) or not await run_in_threadpool(self._grants.may_read, site, digest):
            raise RefusalError(404, "no such object, or not granted")
        return object_response(
            self._settings.exchange / "objects" / f"{digest}.safetensors",
            digest,
            range_field=request.headers.get("range"),
            if_range=request.headers.get("if-range"),
            head=request.method == "HEAD",
        )

    async def status(self, request: Request) -> Response:
        """Say how much of a payload is there."""
        slot = self._own_slot(request)
        await self._require_open(slot)
        return answer_with(await run_in_threadpool(self._slots.status, slot))

    async def upload(self, request: Request) -> Response:
        """Take a part of a payload."""
        slot, length = self._own_slot(request), request.scope["state"]["body"].length
        offset = request.query_params.get("offset", "")
        if not _NUMBER.fullmatch(offset) or list(request.query_params) != ["offset"] or not length:
            raise RefusalError(400, "an upload without one offset, or without bytes")
        max_bytes = await self._require_open(slot)
        whole = caller_of(request).body_sha256 is not None
        opened = self._slots.receive(slot, int(offset), length=length, max_bytes=max_bytes, whole=whole)
        async with contextmanager_in_threadpool(opened) as part:
            await _write_body(request, part)
        return await self.status(request)

    async def submit(self, request: Request) -> Response:
        """Seal a slot with the caller's envelope."""
        slot, text = self._own_slot(request), await read_body(request)
        if await run_in_threadpool(self._slots.envelope, slot) != text:
            await self._require_open(slot)
        head = await run_in_threadpool(self._read_envelope, text, slot, caller_of(request))
        await run_in_threadpool(
            self._slots.submit, slot, text, sealed_sha256=head.sealed_sha256, sealed_bytes=head.sealed_bytes
        )
        # Not read again: the coordinator may have taken it away already.
        return answer_with(UploadStatus(bytes=head.sealed_bytes or 0, submitted=True))

    def _own_slot(self, request: Request) -> SlotKey:
        """Return the slot a path names, if it is the caller's own."""
        params = request.path_params
        try:
            numbers = {name: int(params[name]) for name in ("round", "attempt") if _NUMBER.fullmatch(params[name])}
            slot = SlotKey(training=params["training"], kind=params["kind"], site=params["site"], **numbers)
        except ValidationError as error:
            raise RefusalError(404, "a path that names no slot") from error
        if slot.site != caller_of(request).site:
            raise RefusalError(404, f"the slot of {slot.site}")
        return slot

    async def _require_open(self, slot: SlotKey) -> int:
        """Return how much a slot takes, if the coordinator opened it."""
        max_bytes = await run_in_threadpool(self._grants.open_bytes, slot)
        if max_bytes is None:
            raise RefusalError(404, f"{slot.folder} is not open")
        return max_bytes

    def _read_envelope(self, text: bytes, slot: SlotKey, caller: Caller) -> EnvelopeHead:
        """Return what an envelope says that the site signed for this slot."""
        site = self._sites.get(caller.site)
        if site is None or site.signing_key is None:
            raise RefusalError(401, f"{caller.site} has no signing key")
        try:
            kind = _SIGNED.get(slot.kind, UPDATE)
            head = verify_record(kind, read_signed(text), VerifyKey.from_base64(site.signing_key), EnvelopeHead)
        except RefusedError as error:
            raise RefusalError(400, f"an envelope: {error}", said={"reason": str(error)[:300]}) from error
        stated = slot.model_copy(update=head.model_dump(include={"training", "round", "attempt", "site"}))
        if (stated, head.federation) != (slot, self._settings.federation):
            raise RefusalError(400, "an envelope", said={"reason": "the envelope is for another slot or federation"})
        return head


async def _write_body(request: Request, part: Part) -> None:
    """Write a body as it comes, a MiB at a time while the next arrives; what came before a break is kept."""
    waiting, writing, broke = bytearray(), None, None
    try:
        async for piece in request.stream():
            waiting += piece
            if len(waiting) >= _WRITE:
                ready, waiting = waiting, bytearray()
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(run_in_threadpool(part.write, ready))
    except ClientDisconnect as error:
        broke = error
    finally:
        if writing is not None:
            await writing
    await run_in_threadpool(part.write, waiting)
    if broke is not None:
        raise GoneError from broke
