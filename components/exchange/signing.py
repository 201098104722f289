r"""Signed records: one canonical text, one signature, and which kind of record it is.

What is signed is ``b"wardround/<kind>/v1\0"`` followed by the record in canonical JSON (keys sorted by code
point, no blanks, UTF-8, no NaN or infinity). The prefix keeps a signature made for one kind of record from
being offered for another. The text itself travels and is what is verified, so that no two programs have to
agree on how a number is written.

Guarantees (`verify`): the owner of the key signed exactly this record, as this kind. Ed25519, RFC 8032.

Not guaranteed: that the record is new (a signature can be replayed: records carry a nonce, a round and an
attempt, and who receives them checks those), that it is secret (see `components.exchange.sealing`), or whose
key it is (see `components.governance.identity_files`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import RefusedError
from components.exchange.keys import SigningKey, VerifyKey, decode_base64
from components.exchange.protocol import require_protocol
from components.mistakes import first_mistake
from components.rounds import Sha256

MAX_BODY_BYTES = 6 << 20  # a site's sums over 50,000 columns

_R = TypeVar("_R", bound=BaseModel)
_KIND = r"[a-z][a-z0-9-]{0,62}"  # no "/" and no NUL: the prefix can be read in one way only


class Signed(BaseModel):
    """A record with its signature, as it travels.

    Attributes:
        kind: Which kind of record it is.
        body: The record in canonical JSON.
        key: Fingerprint of the key that signed; a hint for finding the key, itself not signed.
        signature: Standard base64 of the signature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Annotated[str, Field(pattern=f"^{_KIND}$")]
    body: Annotated[str, Field(max_length=MAX_BODY_BYTES)]
    key: Sha256
    signature: Annotated[str, Field(min_length=88, max_length=88)]

    @property
    def sha256(self) -> str:
        """SHA-256 of what was signed: two ends that compare it know that they were given the same record."""
        return hashlib.sha256(_message(self.kind, self.body.encode())).hexdigest()


def canonical(record: Mapping[str, Any]) -> bytes:
    """Write a record in the one way that is signed.

    Raises:
        ValueError: If it is not JSON: a key that is no text, a number that is not finite, half a surrogate pair.

    >>> canonical({"b": [1, 0.5], "a": "é"}).decode()
    '{"a":"é","b":[1,0.5]}'
    """
    try:
        _require_text_keys(record)
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the record cannot be written as JSON: {error}") from error


def sign(kind: str, record: Mapping[str, Any], key: SigningKey) -> Signed:
    """Sign a record.

    Args:
        kind: Which kind of record it is: lower-case letters, digits and "-".
        record: The record; JSON.
        key: Who signs.

    Raises:
        ValueError: If `kind` is no such name, or the record is not JSON or longer than `MAX_BODY_BYTES`.
    """
    if not re.fullmatch(_KIND, kind):
        raise ValueError(f"kind must be lower-case letters, digits and '-', at most 63, given {kind!r}")
    body = canonical(dict(record))
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"a record of {len(body)} bytes is too long to sign, at most {MAX_BODY_BYTES}")
    signature = base64.b64encode(key.sign(_message(kind, body))).decode()
    return Signed(kind=kind, body=body.decode(), key=key.public.fingerprint, signature=signature)


def verify(kind: str, signed: Signed, key: VerifyKey, *, max_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """Return a record after its signature was verified; nothing of it is parsed before.

    Args:
        kind: Which kind of record is expected here.
        signed: The record as it came.
        key: Who must have signed it. It comes from what was pinned, never from the record.
        max_bytes: Longest record that is accepted.

    Raises:
        RefusedError: If it is another kind, too long, signed by another key, changed, or not canonical.
    """
    if signed.kind != kind:
        raise RefusedError(f"a signed {signed.kind!r} was offered where {kind!r} is expected")
    try:
        body = signed.body.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(f"a signed {kind} is not UTF-8") from error
    if len(body) > max_bytes:
        raise RefusedError(f"a signed {kind} has {len(body)} bytes, at most {max_bytes} are accepted")
    if signed.key != key.fingerprint:
        raise RefusedError(f"this {kind} was signed with key {signed.key}, expected {key.fingerprint}")
    try:
        key.verify(_message(kind, body), decode_base64(signed.signature, 64))
    except ValueError as error:
        raise RefusedError(f"the signature of this {kind} cannot be used: {error}") from error
    return _parse(kind, body)


def verify_record(kind: str, signed: Signed, key: VerifyKey, record: type[_R]) -> _R:
    """Return a record after its signature, its protocol and its form were verified, in this order.

    Args:
        kind: Which kind of record is expected here.
        signed: The record as it came.
        key: Who must have signed it, as for `verify`.
        record: Its form, with a field ``protocol``.

    Raises:
        RefusedError: As `verify`, or if it speaks another protocol or has another form.
    """
    fields = verify(kind, signed, key)
    require_protocol(fields.get("protocol"), f"who signed this {kind}")
    try:
        return record.model_validate(fields)
    except ValidationError as error:
        raise RefusedError(f"this is not a signed {kind}: {first_mistake(error)}") from error


def read_signed(text: str | bytes) -> Signed:
    """Read a signed record from its JSON; nothing is verified yet.

    Raises:
        RefusedError: If it has not exactly the fields of `Signed`.
    """
    try:
        return Signed.model_validate_json(text)
    except ValidationError as error:
        raise RefusedError(f"this is not a signed record: {first_mistake(error)}") from error


def _message(kind: str, body: bytes) -> bytes:
    """Return the bytes that are signed."""
    return b"wardround/" + kind.encode() + b"/v1\0" + body


def _parse(kind: str, body: bytes) -> dict[str, Any]:
    """Return the record of a verified body, if there is only one way to read it."""
    try:
        record = json.loads(body)
        same = isinstance(record, dict) and canonical(record) == body
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"a signed {kind} is not JSON") from error
    if not same:
        raise RefusedError(f"a signed {kind} is not an object in canonical JSON")
    return dict(record)


def _require_text_keys(value: Any) -> None:
    """Refuse keys that are not text: JSON would turn them into text, and two could become one."""
    if isinstance(value, dict):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"keys must be text, given {wrong[0]!r}")
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            _require_text_keys(part)
