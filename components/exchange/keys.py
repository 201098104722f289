"""The three key pairs of an end: signing (Ed25519), sealing (X25519) and TLS (EC P-256).

A private key is made where it is used and leaves that machine in no message. It lies in PEM (PKCS #8) without
a passphrase, in a file of mode 0600 that is refused when others could read it: what protects it is the machine.
Public keys travel as standard base64 of their 32 raw bytes and are compared by people as fingerprints, the
SHA-256 of those bytes in hexadecimal.

No key says whose it is. A site's keys are tied to its name at enrolment, and pinned
(`components.governance.identity_files`).

References:
    Ed25519: RFC 8032. X25519: RFC 7748. P-256: FIPS 186-5. PKCS #8: RFC 5958.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from components.errors import RefusedError, StorageError
from components.exchange.secret_files import read_secret, write_secret
from components.files import shown

_Private = TypeVar("_Private", Ed25519PrivateKey, X25519PrivateKey, ec.EllipticCurvePrivateKey)

# The points of order 1, 2, 4 and 8 of Ed25519, and p and p + 1, which decode to 0 and 1; without the sign bit.
# A signature by one of them fits many messages, so its owner could deny having signed.
_SMALL_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "00" * 32,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


@dataclass(frozen=True)
class _PublicKey:
    """The 32 bytes of a public key: as they travel, and as people compare them."""

    raw: bytes
    _algorithm: ClassVar[str]

    def __post_init__(self) -> None:
        if not isinstance(self.raw, bytes) or len(self.raw) != 32:
            raise ValueError("a raw public key must be 32 bytes")
        if self._is_of_small_order():
            raise ValueError(
                f"this {self._algorithm} key is a point of small order; no key that was drawn at random is"
            )

    def _is_of_small_order(self) -> bool:
        """Whether this is one of the few points that everybody knows a private half for."""
        raise NotImplementedError

    @classmethod
    def from_base64(cls, text: str) -> Self:
        """Read a key that came over the wire.

        Raises:
            RefusedError: If it is not the standard base64 of a key.
        """
        try:
            return cls(decode_base64(text, 32))
        except ValueError as error:
            raise RefusedError(f"a public key cannot be used: {error}") from error

    @property
    def base64(self) -> str:
        """The key as it travels."""
        return base64.b64encode(self.raw).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the raw key, in hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()


@dataclass(frozen=True)
class VerifyKey(_PublicKey):
    """The public half of a `SigningKey`.

    Args:
        raw: Its 32 bytes.

    Raises:
        ValueError: If these are not 32 bytes, or a point of small order.
    """

    _algorithm = "Ed25519"

    def _is_of_small_order(self) -> bool:
        """See the table."""
        return self.raw[:31] + bytes([self.raw[31] & 0x7F]) in _SMALL_ORDER

    def verify(self, data: bytes, signature: bytes) -> None:
        """Return if `signature` is this key's over exactly these bytes.

        Raises:
            RefusedError: If it is not.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature as error:
            raise RefusedError(f"the signature is not that of key {self.fingerprint} over these bytes") from error


@dataclass(frozen=True)
class SealingPublicKey(_PublicKey):
    """The public half of a `SealingKey`.

    Args:
        raw: Its 32 bytes.

    Raises:
        ValueError: If these are not 32 bytes, or a point of small order, to which everybody could open.
    """

    _algorithm = "X25519"

    def _is_of_small_order(self) -> bool:
        """Whether every exchange with it ends in zero, which `cryptography` refuses."""
        try:
            X25519PrivateKey.generate().exchange(self.public)
        except ValueError:
            return True
        return False

    @property
    def public(self) -> X25519PublicKey:
        """The key as `cryptography` wants it."""
        return X25519PublicKey.from_public_bytes(self.raw)


@dataclass(frozen=True, eq=False)
class _PrivateKey(Generic[_Private]):
    """A private key: how it is drawn, and how it lies in its file."""

    private: _Private = field(repr=False)
    _kind: ClassVar[type[Any]]
    _kind_name: ClassVar[str]
    _draw: ClassVar[Callable[[], Any]]

    @classmethod
    def generate(cls) -> Self:
        """Draw a new key from the system's random numbers."""
        return cls(cls._draw())

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read a key; `ValueError` if it is none of this kind."""
        try:
            found = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError("not a private key in PEM (PKCS #8) without a passphrase") from error
        if not isinstance(found, cls._kind):
            raise ValueError(f"a private key of another kind than {cls._kind_name}")
        return cls(found)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key from its file; `StorageError` if it is damaged or others may read it."""
        try:
            return cls.from_pem(read_secret(path))
        except ValueError as error:
            raise StorageError(
                f"{shown(path)} cannot be used: {error}. Put it back from a backup; without one, enrol again"
            ) from error

    def to_pem(self) -> bytes:
        """Return the key in PEM (PKCS #8), not encrypted."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def save(self, path: Path, *, once: bool = False) -> bool:
        """Write the key to its file; see `components.exchange.secret_files.write_secret`."""
        return write_secret(path, self.to_pem(), once=once)


@dataclass(frozen=True, eq=False)
class SigningKey(_PrivateKey[Ed25519PrivateKey]):
    """An Ed25519 private key; made by `generate`, `from_pem` or `load`."""

    _kind, _kind_name, _draw = Ed25519PrivateKey, "Ed25519", Ed25519PrivateKey.generate

    @property
    def public(self) -> VerifyKey:
        """The half that others get."""
        return VerifyKey(self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the signature. Sign records with `components.exchange.signing`, never raw bytes."""
        return self.private.sign(data)


@dataclass(frozen=True, eq=False)
class SealingKey(_PrivateKey[X25519PrivateKey]):
    """An X25519 private key; made by `generate`, `from_pem` or `load`."""

    _kind, _kind_name, _draw = X25519PrivateKey, "X25519", X25519PrivateKey.generate

    @property
    def public(self) -> SealingPublicKey:
        """The half that others get."""
        return SealingPublicKey(self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


@dataclass(frozen=True, eq=False)
class TlsKey(_PrivateKey[ec.EllipticCurvePrivateKey]):
    """An EC P-256 private key for certificates; made by `generate`, `from_pem` or `load`."""

    _kind, _kind_name = ec.EllipticCurvePrivateKey, "elliptic curve"
    _draw = partial(ec.generate_private_key, ec.SECP256R1())

    def __post_init__(self) -> None:
        if not isinstance(self.private.curve, ec.SECP256R1):
            raise ValueError(f"a TLS key must be on the curve P-256, this one is on {self.private.curve.name}")

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """The half that goes into certificates."""
        return self.private.public_key()

    def sign(self, data: bytes) -> bytes:
        """Return the ECDSA signature (SHA-256, DER) of some bytes; see `certificates.Credential.verify`."""
        return self.private.sign(data, ec.ECDSA(hashes.SHA256()))


def decode_base64(text: str, length: int) -> bytes:
    """Decode standard base64 of so many bytes, of which there is exactly one spelling.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("it is not standard base64") from error
    if len(raw) != length or base64.b64encode(raw).decode() != text:
        raise ValueError(f"it is not the standard base64 of {length} bytes")
    return raw
