r"""A request signed by its sender, for networks where a middlebox ends TLS and client certificates do not pass.

::

    WardRound-Certificate   the credential, DER in standard base64
    WardRound-Time          seconds since 1970
    WardRound-Nonce         32 hexadecimal digits, used once
    WardRound-Body          SHA-256 of the body, hexadecimal
    WardRound-Signature     by the credential's key, over method, target (path and query) and the three above

Signed is ``b"wardround/request/v1\0"`` followed by canonical JSON. The digest of the body is a header, so that the
signature is verified before the body is read, and the body against the digest before it has any effect.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from components.errors import RefusedError
from components.exchange.keys import TlsKey
from components.exchange.signing import canonical
from components.rounds import SHA256_PATTERN

WINDOW_S = 900.0  # clocks may differ by this much; the nonce of a request is remembered for as long

CERTIFICATE = "wardround-certificate"
_TIME, _NONCE, _BODY, _SIGNATURE = "wardround-time", "wardround-nonce", "wardround-body", "wardround-signature"
HEADERS = (CERTIFICATE, _TIME, _NONCE, _BODY, _SIGNATURE)


@dataclass(frozen=True)
class SignedRequest:
    """What a signed request says of itself; nothing of it is believed yet.

    Attributes:
        certificate: The credential, DER.
        time: When it was signed, seconds since 1970.
        nonce: 32 hexadecimal digits.
        body: SHA-256 of the body.
        signature: Over `message`.
        message: What must have been signed.
    """

    certificate: bytes
    time: int
    nonce: str
    body: str
    signature: bytes
    message: bytes


def sign_request(
    method: str, target: str, body: bytes, *, key: TlsKey, certificate: bytes, now: float
) -> dict[str, str]:
    """Return the headers that sign a request.

    Args:
        method: ``GET``, ``PUT``, ...
        target: Path and query, as they stand in the request's first line.
        body: The body.
        key: The key of the credential.
        certificate: The credential, DER.
        now: Seconds since 1970.
    """
    fields = {_TIME: str(int(now)), _NONCE: secrets.token_hex(16), _BODY: hashlib.sha256(body).hexdigest()}
    signature = key.sign(_message(method, target, fields))
    return {CERTIFICATE: _encode(certificate), **fields, _SIGNATURE: _encode(signature)}


def read_signed_request(method: str, target: str, headers: Mapping[str, str]) -> SignedRequest:
    """Read the headers of a signed request.

    Raises:
        RefusedError: If one is missing or not as it must be.
    """
    try:
        fields = {name: headers[name] for name in (_TIME, _NONCE, _BODY)}
        certificate, signature = _decode(headers[CERTIFICATE]), _decode(headers[_SIGNATURE])
    except (KeyError, ValueError) as error:
        raise RefusedError("the headers of a signed request are not complete") from error
    patterns = {_TIME: r"[0-9]{1,12}", _NONCE: r"[0-9a-f]{32}", _BODY: SHA256_PATTERN}
    for name, pattern in patterns.items():
        if not re.fullmatch(pattern, fields[name], flags=re.ASCII):
            raise RefusedError(f"the header {name} of a signed request is not as it must be")
    return SignedRequest(
        certificate, int(fields[_TIME]), fields[_NONCE], fields[_BODY], signature, _message(method, target, fields)
    )


def _message(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """Return the bytes that are signed."""
    return b"wardround/request/v1\0" + canonical({"method": method, "target": target, **fields})


def _encode(data: bytes) -> str:
    """Write bytes into a header."""
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    """Read bytes from a header; `ValueError` if it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
