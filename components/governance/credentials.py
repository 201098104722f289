"""A site's credential: read from what it shows, and verified against the authority that was pinned.

Guarantees (`verify_chain`): the authority issued this very certificate, as a site's credential, and it is
within its time. The gateway's own certificate, and another authority's of the same name, are refused.

Not guaranteed: that a credential was not revoked since; the gateway's database knows. There are no revocation
lists: credentials live for days and end by themselves where the database cannot be asked.

Reference:
    RFC 5280. One authority issues every certificate, so a chain has one link, and that is all that is accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from components.errors import RefusedError
from components.rounds import NAME_PATTERN

MAX_CERTIFICATE_BYTES = 1 << 14

_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class Credential:
    """A site's certificate, read; `verify_chain` says whether to believe it.

    Attributes:
        site: Whose it is.
        federation: Of which federation.
        serial: Its number, in hexadecimal; unique under one authority.
        not_before: From when it is good.
        not_after: Until when.
        sha256: SHA-256 of its DER bytes, in hexadecimal.
        pem: The certificate.
    """

    site: str
    federation: str
    serial: str
    not_before: datetime
    not_after: datetime
    sha256: str
    pem: bytes = field(repr=False)

    @property
    def renew_at(self) -> datetime:
        """When two thirds of its life are over."""
        return self.not_before + (self.not_after - self.not_before) * 2 / 3

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """The key that it ties to the site."""
        return elliptic_key(load_certificate(self.pem))

    def verify(self, data: bytes, signature: bytes) -> None:
        """Return if `signature` is that of the credential's key over exactly these bytes (`TlsKey.sign`).

        Raises:
            RefusedError: If it is not.
        """
        try:
            self.public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise RefusedError(f"the signature is not that of {self.site}'s credential over these bytes") from error


def read_credential(data: bytes) -> Credential:
    """Read a credential in DER or PEM; nothing is verified yet.

    Raises:
        RefusedError: If it is not one certificate, or its subject is not one site of one federation.
    """
    return describe(load_certificate(data))


def read_authority(data: bytes) -> x509.Certificate:
    """Read an authority's certificate in DER or PEM, as sites pin it.

    Raises:
        RefusedError: If it is not one self-signed certificate of an authority.
    """
    certificate = load_certificate(data)
    try:
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise RefusedError("this certificate is not that of a federation's authority") from error
    if not constraints.ca or not _NAME.fullmatch(subject_field(certificate.subject, NameOID.ORGANIZATION_NAME)):
        raise RefusedError("this certificate is not that of a federation's authority")
    return certificate


@lru_cache(maxsize=1024)  # a gateway sees the same few certificates at every request; what is refused is not kept
def _issued(data: bytes, ca: bytes) -> Credential:
    """Return the credential that an authority issued to a site; its time is not looked at."""
    certificate, authority = load_certificate(data), read_authority(ca)
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise RefusedError("the certificate was not issued by this federation's authority") from error
    _require_purpose(certificate)
    credential = describe(certificate)
    if credential.federation != subject_field(authority.subject, NameOID.ORGANIZATION_NAME):
        raise RefusedError(f"the credential is for federation {credential.federation!r}")
    return credential


def verify_chain(data: bytes, ca: bytes, at: datetime) -> Credential:
    """Return a site's credential after it was verified.

    Args:
        data: The certificate that the site showed, DER or PEM.
        ca: The authority's certificate, DER or PEM; from one's own files, never from the site.
        at: Now.

    Raises:
        RefusedError: If it is not a certificate, another authority's, not for a site, or not within its time.
    """
    credential = _issued(data, ca)
    if at < credential.not_before:
        raise RefusedError(
            f"{credential.site}'s credential is good from {shown_time(credential.not_before)} only: "
            f"here it is {shown_time(at)}; compare the clocks"
        )
    if at > credential.not_after:
        raise RefusedError(
            f"{credential.site}'s credential expired on {shown_time(credential.not_after)}: "
            "enrol again with a new token"
        )
    return credential


def load_certificate(data: bytes) -> x509.Certificate:
    """Read exactly one certificate."""
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise RefusedError(f"a certificate of {len(data)} bytes was offered, at most {MAX_CERTIFICATE_BYTES}")
    try:
        if not data.lstrip().startswith(b"-----"):
            return x509.load_der_x509_certificate(data)
        (certificate,) = x509.load_pem_x509_certificates(data)
    except (ValueError, TypeError) as error:
        raise RefusedError("this is not one certificate in DER or PEM") from error
    return certificate


def describe(certificate: x509.Certificate) -> Credential:
    """Return what a credential says."""
    site = subject_field(certificate.subject, NameOID.COMMON_NAME)
    federation = subject_field(certificate.subject, NameOID.ORGANIZATION_NAME)
    if len(list(certificate.subject)) != 2 or not _NAME.fullmatch(site) or not _NAME.fullmatch(federation):
        raise RefusedError("the certificate's subject is not one site of one federation")
    return Credential(
        site=site,
        federation=federation,
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        pem=certificate.public_bytes(Encoding.PEM),
    )


def _require_purpose(certificate: x509.Certificate) -> None:
    """Refuse a certificate that was not issued to a site: the gateway's, or the authority's own."""
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise RefusedError("the certificate is not a site's credential") from error
    if list(purposes) != [ExtendedKeyUsageOID.CLIENT_AUTH] or constraints.ca:
        raise RefusedError("the certificate is not a site's credential")


def require_name(what: str, name: str) -> None:
    """Refuse a name that could not stand in a path, a subject or a message; `ValueError`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{what} must match {_NAME.pattern}, given {name!r}")


def subject_field(name: x509.Name, field: ObjectIdentifier) -> str:
    """Return the one value of a field of a subject; empty if there is none or more than one."""
    values = [attribute.value for attribute in name.get_attributes_for_oid(field)]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def shown_time(at: datetime) -> str:
    """Return a time for people, in UTC to the second."""
    return at.astimezone(UTC).isoformat(sep=" ", timespec="seconds")


def elliptic_key(certificate: x509.Certificate | x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a certificate or a request.

    Raises:
        RefusedError: If it has a key of another kind.
    """
    try:
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError("the certificate has a key that cannot be used") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise RefusedError("the certificate must be for an EC P-256 key")
    return public
