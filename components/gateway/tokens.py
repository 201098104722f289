"""The token that lets one hospital enrol once: what it holds, and how its secret is kept.

::

    wr1.<base64url of {"authority", "federation", "gateway", "site"}>.<id>.<secret>

`authority` is the fingerprint of the federation's own certificate authority: so whoever holds the token knows
whom it may be shown to. The database keeps the SHA-256 of the secret; the secret has 256 bits from the
system's source of randomness, so that a plain hash of it is enough.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from dataclasses import dataclass

from pydantic import ValidationError

from components.errors import RefusedError
from components.gateway.records import Record
from components.rounds import Name, Sha256, SiteName

PREFIX = "wr1"
_TOKEN_CHARACTERS = 4096
_PART = re.compile(r"[A-Za-z0-9_-]{16,64}")


class Invitation(Record):
    """The part of a token that everybody may read.

    Attributes:
        gateway: Address of the gateway, ``https://HOST:PORT``.
        authority: SHA-256 of the federation's authority certificate (DER).
        federation: Identifier of the federation.
        site: Name of the site that is invited.
    """

    gateway: str
    authority: Sha256
    federation: Name
    site: SiteName


@dataclass(frozen=True)
class Token:
    """A token: the invitation, and the secret that makes it worth something."""

    invitation: Invitation
    id: str
    secret: str

    def __repr__(self) -> str:
        return f"Token({self.invitation!r}, id={self.id!r})"

    @property
    def text(self) -> str:
        """The token as it is handed to the hospital."""
        fields = json.dumps(self.invitation.model_dump(), sort_keys=True, separators=(",", ":")).encode()
        return ".".join([PREFIX, base64.urlsafe_b64encode(fields).decode().rstrip("="), self.id, self.secret])


def make_token(invitation: Invitation) -> Token:
    """Make a token with a new secret."""
    return Token(invitation, secrets.token_hex(16), secrets.token_urlsafe(32))


def read_token(text: str) -> Token:
    """Read a token.

    Raises:
        RefusedError: If it is not one, or was cut short while it was copied.
    """
    parts = text.strip().split(".")
    if len(text) > _TOKEN_CHARACTERS or len(parts) != 4 or parts[0] != PREFIX:
        raise RefusedError(f"this is not a token: it must begin with {PREFIX}. and have four parts; copy it whole")
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        invitation = Invitation.model_validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValidationError, ValueError) as error:
        raise RefusedError("this token is damaged: copy it whole, without line breaks") from error
    if not all(_PART.fullmatch(part) for part in parts[2:]):
        raise RefusedError("this token is damaged: copy it whole, without line breaks")
    return Token(invitation, parts[2], parts[3])


def hash_secret(secret: str) -> str:
    """Return what is kept of a secret.

    >>> hash_secret("abc")[:8]
    'ba7816bf'
    """
    return hashlib.sha256(secret.encode()).hexdigest()
