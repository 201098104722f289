"""A hospital's side of the gateway: enrol, renew, fetch, deliver, and say what it is doing."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, TypeVar

import httpx
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import BaseModel, ValidationError

from components.errors import RefusedError, ServiceError
from components.exchange.keys import TlsKey
from components.exchange.protocol import PROTOCOL, require_protocol
from components.files import make_folder, storage_errors, sync_folder
from components.gateway.records import (
    Activity,
    Authority,
    CoordinatorKeys,
    DoctorReport,
    Enrolment,
    EnrolRequest,
    Federation,
    Health,
    Heartbeat,
    Peer,
    Renewal,
    RenewRequest,
    SlotKey,
    UploadStatus,
    own_version,
)
from components.gateway.tokens import Invitation, read_token
from components.gateway.transport import TRIES, Pauses, Route, Wire, client_context, httpx_settings
from components.governance.certificates import make_csr
from components.governance.credentials import Credential, read_authority, verify_chain
from components.governance.identity_files import SiteFolder
from components.governance.pins import Federation as Pinned
from components.governance.pins import PublicKeys, pin, pin_peers

PART_BYTES = 16 << 20
_OBJECT_BYTES = 1 << 36
_R = TypeVar("_R", bound=BaseModel)


class Hash(Protocol):
    """A digest in the making."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""


class GatewayClient:
    """One hospital at its gateway. Not for several threads at once.

    Args:
        folder: The site's folder, after it enrolled.
        route: The way to the gateway.

    Raises:
        StorageError: If the folder cannot be used.
    """

    def __init__(self, folder: SiteFolder, route: Route | None = None) -> None:
        self._folder, self._route = folder, route or Route()
        self.pinned = folder.read_federation()
        self._wire = Wire(
            self.pinned.gateway, lambda: httpx_settings(folder, self._route), route=self._route, folder=folder
        )

    def health(self) -> Health:
        """Return what the gateway says of itself.

        Raises:
            RefusedError: If it speaks another protocol.
        """
        health = _read(self._wire.send("GET", "/v1/health"), Health)
        require_protocol(health.protocol, "the gateway")
        return health

    def federation(self) -> Pinned:
        """Pin the keys of new peers, and return all.

        Raises:
            RefusedError: If the keys of a peer or of the coordinator are not those first seen.
        """
        members = _read(self._wire.send("GET", "/v1/federation"), Federation)
        if members.federation != self.pinned.federation or _keys(members.coordinator) != self.pinned.coordinator.keys:
            raise RefusedError("the coordinator's keys are not those pinned: do not go on, and ask the operator")
        self.pinned = _pin_peers(self.pinned, members.peers)
        self._folder.write_federation(self.pinned)
        return self.pinned

    def renew(self) -> Credential:
        """Get the next credential, and keep it."""
        csr = make_csr(TlsKey.load(self._folder.tls_key), self.pinned.site).decode()
        request = RenewRequest(protocol=PROTOCOL, csr=csr)
        renewal = _read(self._wire.send("POST", "/v1/renew", json=request.model_dump()), Renewal)
        pem = renewal.certificate.encode()
        verify_chain(pem, self.pinned.ca.encode(), datetime.now(UTC))
        return self._folder.write_credential(pem)

    def renew_if_due(self) -> Credential:
        """Renew the credential if two thirds of its life are over, and return the one that is good now."""
        credential = self._folder.read_credential()
        return self.renew() if datetime.now(UTC) >= credential.renew_at else credential

    def heartbeat(self, activity: Activity) -> Health:
        """Say that the hospital is alive, what it is doing, and what it runs and speaks.

        Raises:
            RefusedError: If the gateway speaks another protocol; it was told all the same.
        """
        beat = Heartbeat(version=own_version(), activity=activity, protocol=PROTOCOL)
        told = beat.model_dump(exclude_none=True)
        health = _read(self._wire.send("POST", "/v1/heartbeat", json=told), Health)
        require_protocol(health.protocol, f"the gateway (WardRound {health.version})")
        return health

    def doctor(self, *, passed: bool, findings: Mapping[str, Any]) -> Health:
        """Say what the hospital found when it examined itself; passed, it is ready."""
        report = DoctorReport(passed=passed, version=own_version(), findings=dict(findings))
        return _read(self._wire.send("POST", "/v1/doctor", json=report.model_dump()), Health)

    def fetch_object(self, digest: str, target: Path, *, max_bytes: int = _OBJECT_BYTES) -> None:
        """Fetch an object; what was fetched before a break is not fetched again.

        Args:
            digest: Its SHA-256.
            target: Where it will lie, whole and durable; until then a file beside it with ``.part``.
            max_bytes: Longest object that is accepted.

        Raises:
            RefusedError: If this site may not read it, it is longer, or does not hash to its digest.
            ServiceError: If the gateway cannot be reached.
            StorageError: If it cannot be written.
        """
        part = target.with_name(f"{digest}.part")
        with storage_errors("write", target):
            make_folder(target.parent)
            # One more time from the start: what lay there may have been damaged.
            for _ in range(2):
                found = self._fetch(digest, part, max_bytes)
                if found == digest:
                    part.replace(target)
                    sync_folder(target.parent)
                    return
                part.unlink()
        raise RefusedError(f"the gateway's object {digest} hashes to {found}: it was changed or damaged")

    def deliver(self, slot: SlotKey, payload: Path | None, envelope: bytes) -> bool:
        """Bring a sealed payload and its envelope into this site's slot; sent twice, it is there once.

        Args:
            slot: The slot.
            payload: The sealed update; None if the answer has none.
            envelope: The signed envelope, JSON.

        Returns:
            Whether the gateway said that it is there. False if its answer was lost, and at the next try the slot
            was closed: it was taken meanwhile, or nobody wants it any more.

        Raises:
            RefusedError: If the slot is not open, is sealed with another envelope, or it is too large.
            ServiceError: If the gateway cannot be reached.
        """
        if payload is not None:
            self.upload(slot, payload)
        answer = self._submit(slot, envelope)
        if answer.status_code == 409 and payload is not None and not answer.json().get("submitted"):
            # What lay there was the beginning of another payload.
            self.upload(slot, payload, fresh=True)
            answer = self._submit(slot, envelope)
        if answer.status_code == 404 and answer.extensions[TRIES] > 1:
            return False
        self._wire.check(answer)
        return True

    def upload(self, slot: SlotKey, payload: Path, *, fresh: bool = False) -> None:
        """Bring a payload, from where it broke off; with `fresh`, from its beginning."""
        with storage_errors("read", payload), payload.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # What is one part anyway is brought without asking what is there.
            status = self.status(slot) if size > PART_BYTES else UploadStatus(bytes=0, submitted=False)
            offset = 0 if fresh or status.bytes > size else status.bytes
            pauses = Pauses(self._route.patience_s)
            while offset < size and not status.submitted:
                file.seek(offset)
                answer = self._put(slot, offset, file.read(PART_BYTES))
                if answer.status_code == 409 and answer.json().get("busy") and pauses.wait():
                    continue  # what we sent before a break is still being written
                if answer.status_code == 409 and "bytes" not in answer.json():
                    self._wire.check(answer)
                found = answer.json()
                status = UploadStatus(bytes=found["bytes"], submitted=found["submitted"])
                offset = status.bytes

    def bring_part(self, slot: SlotKey, offset: int, part: bytes) -> int | None:
        """Bring a part of a payload; return how much of the payload is there then, None if that part does not fit."""
        answer = self._put(slot, offset, part)
        return None if answer.status_code == 409 else _read(answer, UploadStatus).bytes

    def status(self, slot: SlotKey) -> UploadStatus:
        """Return how much of a payload is there."""
        return _read(self._wire.send("GET", f"{_path(slot)}/upload"), UploadStatus)

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, slot: SlotKey, offset: int, part: bytes) -> httpx.Response:
        """Bring a part of a payload; where it does not fit, the answer says what is there."""
        path, query = f"{_path(slot)}/upload", {"offset": str(offset)}
        return self._wire.send("PUT", path, params=query, content=part, accept=(409,))

    def _submit(self, slot: SlotKey, envelope: bytes) -> httpx.Response:
        """Seal a slot."""
        headers = {"content-type": "application/json"}
        return self._wire.send("POST", f"{_path(slot)}/submit", content=envelope, headers=headers, accept=(404, 409))

    def _fetch(self, digest: str, part: Path, max_bytes: int) -> str:
        """Fetch what is missing of an object, and return what all of it hashes to."""
        with part.open("a+b") as file:
            file.seek(0)
            state = hashlib.file_digest(file, hashlib.sha256)
            for attempt in self._wire.attempts(progress=file.tell):
                with attempt:
                    headers = {"range": f"bytes={file.tell()}-", "if-range": f'"{digest}"'}
                    with self._wire.stream(f"/v1/objects/{digest}", headers) as answer:
                        self._wire.check(answer, accept=(416,))
                        if answer.status_code == 200:
                            file.truncate(0)
                            state = hashlib.sha256()
                        _append(answer, file, state, max_bytes)
            file.flush()
            os.fsync(file.fileno())
        return state.hexdigest()


def enrol(token: str, folder: SiteFolder, route: Route | None = None) -> Credential:
    """Enrol a hospital: make its keys, show the token, keep the credential, and pin everybody's keys.

    Interrupted, it may be called again with the same token: the keys are the same, and so is the answer.

    Args:
        token: What the operator gave.
        folder: Where the site's keys and credential will lie.
        route: The way to the gateway.

    Raises:
        RefusedError: If the token is damaged, was used or expired, or the gateway is not the one it names.
        ServiceError: If the gateway cannot be reached.
        StorageError: If the folder cannot be written.
    """
    route, shown = route or Route(), read_token(token)
    invitation = shown.invitation
    authority = _authority(invitation, route)
    wire = Wire(invitation.gateway, lambda: {"verify": client_context(authority, route, None)}, route=route)
    try:
        require_protocol(_read(wire.send("GET", "/v1/health"), Health).protocol, "the gateway")
        keys = folder.make_keys()
        request = EnrolRequest(
            protocol=PROTOCOL,
            token_id=shown.id,
            secret=shown.secret,
            csr=make_csr(keys.tls, invitation.site).decode(),
            signing_key=keys.signing.public.base64,
            sealing_key=keys.sealing.public.base64,
        )
        enrolment = _read(wire.send("POST", "/v1/enrol", json=request.model_dump()), Enrolment)
    finally:
        wire.close()
    return _keep(enrolment, invitation, authority, folder)


def _authority(invitation: Invitation, route: Route) -> str:
    """Return the authority that the token names. Nothing secret is sent, and nothing else believed, before this."""
    unknown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unknown.check_hostname, unknown.verify_mode = False, ssl.CERT_NONE
    wire = Wire(invitation.gateway, lambda: {"verify": unknown}, route=route)
    try:
        found = _read(wire.send("GET", "/v1/authority"), Authority)
        certificate = read_authority(found.authority.encode())
    finally:
        wire.close()
    if certificate.fingerprint(SHA256()).hex() != invitation.authority:
        raise RefusedError(f"{invitation.gateway} is not the gateway that made this token: tell the operator")
    return found.authority


def _keep(enrolment: Enrolment, invitation: Invitation, authority: str, folder: SiteFolder) -> Credential:
    """Keep what an enrolment brought, after it was checked; the credential last, which says that all is there."""
    pem, members = enrolment.certificate.encode(), enrolment.members
    credential = verify_chain(pem, authority.encode(), datetime.now(UTC))
    if (credential.site, credential.federation, members.federation) != (
        invitation.site, invitation.federation, invitation.federation,
    ):  # fmt: skip
        raise RefusedError("the gateway answered with the credential of another site or federation")
    today = datetime.now(UTC).date()
    pinned = Pinned(
        federation=invitation.federation, site=invitation.site, gateway=invitation.gateway, ca=authority,
        coordinator=pin(_keys(members.coordinator), today),
    )  # fmt: skip
    folder.write_federation(_pin_peers(pinned, members.peers))
    return folder.write_credential(pem)


def _pin_peers(pinned: Pinned, peers: Sequence[Peer]) -> Pinned:
    """Pin the keys of new peers."""
    return pin_peers(pinned, {peer.site: _keys(peer) for peer in peers}, datetime.now(UTC).date())


def _keys(member: Peer | CoordinatorKeys) -> PublicKeys:
    """Return a member's keys."""
    return PublicKeys.from_json({"signing": member.signing_key, "sealing": member.sealing_key})


def _path(slot: SlotKey) -> str:
    """Return the path of a slot."""
    return f"/v1/slots/{slot.folder.as_posix()}"


def _read(answer: httpx.Response, record: type[_R]) -> _R:
    """Return the record in an answer."""
    try:
        return record.model_validate_json(answer.content)
    except ValidationError as error:
        raise ServiceError(
            f"{answer.request.url.host} answered something else than a gateway of this version: is the address right?"
        ) from error


def _append(answer: httpx.Response, file: BinaryIO, state: Hash, max_bytes: int) -> None:
    """Write an answer behind what is there."""
    if answer.status_code == 416:  # all of it was there already
        return
    for piece in answer.iter_bytes():
        if file.tell() + len(piece) > max_bytes:
            raise RefusedError(f"the gateway sends an object of more than {max_bytes} bytes")
        file.write(piece)
        state.update(piece)
