"""Who asks: known by the certificate of the connection or by the request's own signature, never by a name it says.

A credential opens the door if the federation's authority issued it to a site, it is within its time, it was not
revoked, and its site is enrolled and has neither left nor been shut out. It is judged anew at every request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from components.errors import RefusedError
from components.gateway.refusals import RefusalError
from components.gateway.signed_requests import CERTIFICATE, HEADERS, WINDOW_S, SignedRequest, read_signed_request
from components.gateway.sites import Sites
from components.governance.credentials import Credential, verify_chain


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        site: Name of the site.
        credential: What it showed.
        body_sha256: The digest the body must have; None if the connection vouches for it.
    """

    site: str
    credential: Credential
    body_sha256: str | None = None


@dataclass(frozen=True)
class Request:
    """What of a request says who asks.

    Attributes:
        method: ``GET``, ``PUT``, ...
        target: Path and query, undecoded.
        headers: By lower-case name. One that comes twice is refused before it comes here.
        certificate: Of the connection, DER; None if there is none.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    certificate: bytes | None


class Identities:
    """Finds out who asks.

    Args:
        sites: Who may come in.
        authority: The federation's authority, PEM.
    """

    def __init__(self, sites: Sites, authority: bytes) -> None:
        self._sites, self._authority = sites, authority

    def identify(self, request: Request, now: float) -> Caller:
        """Return who asks.

        Raises:
            RefusalError: If that is nobody who may come in; always the same answer (401).
        """
        try:
            return self._identify(request, now)
        except RefusedError as error:
            raise RefusalError(401, str(error)) from error

    def _identify(self, request: Request, now: float) -> Caller:
        """Return who asks, or raise the reason."""
        signed = None
        if any(name in request.headers for name in HEADERS):
            signed = read_signed_request(request.method, request.target, request.headers)
        shown = request.certificate if signed is None else signed.certificate
        if shown is None:
            raise RefusedError(f"no certificate, neither of the connection nor in {CERTIFICATE}")
        credential = self._verified(shown, now)
        if signed is not None:
            if request.certificate is not None and self._verified(request.certificate, now).site != credential.site:
                raise RefusedError(f"{credential.site} signed on the connection of another site")
            self._require_signature(signed, credential, now)
        if self._sites.find_active(credential.site, credential.serial) is None:
            raise RefusedError(f"{credential.site}: this credential was revoked, or the site is not enrolled")
        if signed is not None:
            self._use_nonce(signed, credential)
        return Caller(credential.site, credential, None if signed is None else signed.body)

    def _verified(self, certificate: bytes, now: float) -> Credential:
        """Return a credential that the authority issued."""
        return verify_chain(certificate, self._authority, datetime.fromtimestamp(now, UTC))

    def _require_signature(self, signed: SignedRequest, credential: Credential, now: float) -> None:
        """Refuse a request that this credential's key did not sign just now."""
        if abs(now - signed.time) > WINDOW_S:
            raise RefusedError(f"{credential.site} signed a request {now - signed.time:.0f} s ago by its clock")
        credential.verify(signed.message, signed.signature)

    def _use_nonce(self, signed: SignedRequest, credential: Credential) -> None:
        """Refuse a request that was seen before. Last of all: only a member's requests are remembered."""
        if not self._sites.use_nonce(f"{credential.serial}:{signed.nonce}", signed.time + 2 * WINDOW_S):
            raise RefusedError(f"{credential.site}: a signed request was sent twice")
