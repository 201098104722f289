"""Who belongs to the federation: enrolment, renewal, keys, and what a site says about itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from components.errors import RefusedError
from components.exchange.keys import SealingPublicKey, VerifyKey
from components.exchange.protocol import PROTOCOL, require_protocol
from components.gateway.database import Database
from components.gateway.endpoints import Endpoint, answer_with, caller_of, read_record
from components.gateway.records import (
    Authority,
    DoctorReport,
    Enrolment,
    EnrolRequest,
    Federation,
    Health,
    Heartbeat,
    Peer,
    Renewal,
    RenewRequest,
    own_version,
)
from components.gateway.refusals import RefusalError
from components.gateway.settings import Settings
from components.gateway.sites import Issued, NewSite, Sites
from components.governance import certificates
from components.governance.credentials import Credential


class Members:
    """The routes of a federation's members.

    Args:
        settings: Of the gateway.
        database: Of the gateway.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._sites = Sites(database)
        self._authority = certificates.Authority.load(settings.secrets)

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The routes."""
        small = self._settings.limits.json_bytes
        return [
            Endpoint("GET", "/v1/health", self.health, open=True),
            Endpoint("GET", "/v1/authority", self.authority, open=True),
            Endpoint("POST", "/v1/enrol", self.enrol, small, open=True),
            Endpoint("POST", "/v1/renew", self.renew, small),
            Endpoint("GET", "/v1/federation", self.federation),
            Endpoint("POST", "/v1/doctor", self.doctor, small),
            Endpoint("POST", "/v1/heartbeat", self.heartbeat, self._settings.limits.activity_bytes),
        ]

    async def health(self, _request: Request) -> Response:
        """Say version, protocol and time, to everybody."""
        return answer_with(Health(version=own_version(), protocol=PROTOCOL, time=self._database.now()))

    async def authority(self, _request: Request) -> Response:
        """Show the authority's certificate; whoever holds its fingerprint believes it."""
        return answer_with(Authority(federation=self._settings.federation, authority=self._authority.pem.decode()))

    async def enrol(self, request: Request) -> Response:
        """Take a site in that shows its token."""
        asked = await read_record(request, EnrolRequest)
        _require_protocol(asked.protocol)
        try:
            VerifyKey.from_base64(asked.signing_key)
            SealingPublicKey.from_base64(asked.sealing_key)
        except RefusedError as error:
            raise RefusalError(400, str(error), said={"reason": str(error)}) from error
        return answer_with(await run_in_threadpool(self._enrol, asked))

    async def renew(self, request: Request) -> Response:
        """Give a site its next credential."""
        asked = await read_record(request, RenewRequest)
        _require_protocol(asked.protocol)
        return answer_with(await run_in_threadpool(self._renew, caller_of(request).site, asked.csr))

    async def federation(self, _request: Request) -> Response:
        """Say whose keys are whose."""
        return answer_with(await run_in_threadpool(self._federation))

    async def doctor(self, request: Request) -> Response:
        """Take a site's report about itself."""
        report = await read_record(request, DoctorReport)
        site, told = caller_of(request).site, report.model_dump()
        await run_in_threadpool(_of_active, self._sites.examined, site, told, passed=report.passed)
        return await self.health(request)

    async def heartbeat(self, request: Request) -> Response:
        """Take a sign of life."""
        beat = await read_record(request, Heartbeat)
        activity = beat.activity.model_dump(exclude_none=True)
        told = (caller_of(request).site, beat.version, activity, beat.protocol)
        await run_in_threadpool(_of_active, self._sites.heartbeat, *told)
        return await self.health(request)

    def _enrol(self, asked: EnrolRequest) -> Enrolment:
        """Use the token, and issue the first credential."""
        site = NewSite(asked.signing_key, asked.sealing_key, _claim(asked))
        try:
            credential: Credential = self._sites.enrol(
                asked.token_id, asked.secret, site, lambda name: self._issue(name, asked.csr)
            )
        except RefusedError as error:
            raise RefusalError(401, str(error)) from error
        authority = self._authority.pem.decode()
        return Enrolment(certificate=credential.pem.decode(), authority=authority, members=self._federation())

    def _renew(self, site: str, csr: str) -> Renewal:
        """Issue the next credential."""
        issued, credential = self._issue(site, csr)
        _of_active(self._sites.renewed, site, issued)
        return Renewal(certificate=credential.pem.decode())

    def _issue(self, site: str, csr: str) -> tuple[Issued, Credential]:
        """Issue a credential for the name that the database says, never the one a request says."""
        life = timedelta(seconds=self._settings.credential_life_s)
        try:
            credential = certificates.issue_credential(self._authority, csr.encode(), site=site, life=life)
        except RefusedError as error:
            raise RefusalError(400, str(error), said={"reason": str(error)}) from error
        return Issued(credential.serial, credential.not_after.timestamp()), credential

    def _federation(self) -> Federation:
        """Return the members and their keys."""
        peers = [
            Peer(site=site.name, signing_key=site.signing_key, sealing_key=site.sealing_key)
            for site in self._sites.list()
            if site.active and site.signing_key and site.sealing_key
        ]
        return Federation(federation=self._settings.federation, coordinator=self._settings.coordinator, peers=peers)


def _require_protocol(theirs: int) -> None:
    """Refuse an end that speaks another version, in words that name both."""
    try:
        require_protocol(theirs, "the hospital")
    except RefusedError as error:
        raise RefusalError(426, str(error), said={"reason": str(error), "protocol": PROTOCOL}) from error


def _claim(asked: EnrolRequest) -> str:
    """Return what two requests of one site have in common: its three keys. A request is signed anew each time."""
    try:
        public = x509.load_pem_x509_csr(asked.csr.encode()).public_key()
        key = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RefusalError(400, "a certificate request that cannot be read") from error
    return hashlib.sha256(f"{key} {asked.signing_key} {asked.sealing_key}".encode()).hexdigest()


def _of_active(change: Any, *args: Any, **named: Any) -> None:
    """Make a change that only a member may make; who was shut out since the door let it in is nobody."""
    try:
        change(*args, **named)
    except RefusedError as error:
        raise RefusalError(401, str(error)) from error
