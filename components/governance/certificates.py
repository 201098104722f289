"""Certificates of a federation: one authority, which knows the gateway and each site, and nobody else.

::

    authority      self-signed, path length 0: it signs no further authorities
    ├── server     the gateway's: for TLS servers only, its host names and addresses
    └── credential a site's: for TLS clients only; CN = the site, O = the federation; short-lived

All keys are EC P-256 with SHA-256: Ed25519 certificates do not pass every proxy and library.

Guarantees: a site cannot stand in for the gateway with its credential, nor the gateway's certificate for a
site's: each is good for one purpose. An authority signs a request only if the requester holds the key, and
takes nothing from it but that key: the name, the time and the extensions are the authority's. How a credential
is verified stands in `components.governance.credentials`.

Not guaranteed: that the requester is the site it says. Whoever issues knows that from a token or from the
credential that is renewed.

References:
    Certificates: RFC 5280. Requests: RFC 2986. ECDSA: FIPS 186-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from components.errors import RefusedError, StorageError
from components.exchange.keys import TlsKey
from components.exchange.secret_files import read_secret, write_secret
from components.files import shown
from components.governance.credentials import (
    MAX_CERTIFICATE_BYTES,
    Credential,
    describe,
    elliptic_key,
    load_certificate,
    read_authority,
    read_credential,
    require_name,
    shown_time,
    subject_field,
    verify_chain,
)

__all__ = [
    "Authority",
    "Credential",
    "ServerCertificate",
    "issue_credential",
    "issue_server",
    "make_authority",
    "make_csr",
    "read_authority",
    "read_credential",
    "verify_chain",
]

CREDENTIAL_LIFE = timedelta(days=7)
SERVER_LIFE = timedelta(days=398)  # what browsers accept at the most, and longer than a year
AUTHORITY_LIFE = timedelta(days=3653)
CLOCK_SKEW = timedelta(minutes=15)  # certificates begin this much earlier: clocks differ

_AUTHORITY = "WardRound authority"  # no site can be called that: a name has no blank
_KEY_FILE, _CERTIFICATE_FILE = "ca.key", "ca.pem"


@dataclass(frozen=True)
class Authority:
    """The federation's own certificate authority.

    Attributes:
        key: Its private key. Whoever has it can be any site: it stays at the coordinator.
        certificate: Its certificate, which sites pin.
    """

    key: TlsKey = field(repr=False)
    certificate: x509.Certificate

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an authority that `make_authority` made.

        Raises:
            StorageError: If its files are not there, damaged, do not belong together, or others may read the key.
        """
        key, path = TlsKey.load(folder / _KEY_FILE), folder / _CERTIFICATE_FILE
        try:
            certificate = read_authority(read_secret(path, public=True))
        except RefusedError as error:
            raise StorageError(f"{shown(path)} cannot be used: {error}. Put it back from a backup") from error
        if certificate.public_key() != key.public:
            raise StorageError(f"{_KEY_FILE} and {shown(path)} do not belong together: put both back from one backup")
        return cls(key, certificate)

    @property
    def federation(self) -> str:
        """Identifier of the federation."""
        return subject_field(self.certificate.subject, NameOID.ORGANIZATION_NAME)

    @property
    def pem(self) -> bytes:
        """Its certificate, to be pinned."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def sha256(self) -> str:
        """SHA-256 of its certificate's DER bytes: the fingerprint in a token."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True)
class ServerCertificate:
    """The gateway's certificate with its key.

    Attributes:
        key: Its private key.
        pem: Its certificate.
    """

    key: TlsKey = field(repr=False)
    pem: bytes

    @property
    def not_after(self) -> datetime:
        """Until when it is good."""
        return load_certificate(self.pem).not_valid_after_utc


def make_authority(federation: str, folder: Path, *, at: datetime | None = None) -> Authority:
    """Make the authority of a federation in a folder, or return the one that is there.

    Interrupted at any instant and called again, it goes on; of two processes both get the same.

    Args:
        federation: Identifier of the federation.
        folder: Where its key and certificate lie.
        at: Now.

    Raises:
        StorageError: If the files cannot be written, are damaged, or belong to another federation.
        ValueError: If `federation` is no name.
    """
    require_name("federation", federation)
    if not (folder / _KEY_FILE).exists():
        TlsKey.generate().save(folder / _KEY_FILE, once=True)
    if not (folder / _CERTIFICATE_FILE).exists():
        key = TlsKey.load(folder / _KEY_FILE)
        certificate = _self_signed(key, federation, at or datetime.now(UTC))
        write_secret(folder / _CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM), once=True)
    authority = Authority.load(folder)
    if authority.federation != federation:
        raise StorageError(
            f"{shown(folder)} holds the authority of federation {authority.federation!r}, not {federation!r}: "
            "choose another folder"
        )
    return authority


def issue_server(
    authority: Authority,
    names: Sequence[str],
    ips: Sequence[str] = (),
    *,
    key: TlsKey | None = None,
    life: timedelta = SERVER_LIFE,
    at: datetime | None = None,
) -> ServerCertificate:
    """Issue a certificate for the gateway.

    Args:
        authority: Who issues.
        names: Host names that sites will call it by.
        ips: Addresses that sites will call it by.
        key: The gateway's key; None for a new one.
        life: How long it is good.
        at: Now.

    Raises:
        ValueError: If there is no name and no address, one is not valid, or `life` is not above zero.
    """
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(ip_address(ip)) for ip in ips]
    if not alternatives or "" in names:
        raise ValueError("a server certificate needs at least one host name or address, and none that is empty")
    key = key or TlsKey.generate()
    subject = _subject("gateway", authority.federation)
    builder = _leaf(authority, subject, key.public, life=life, at=at or datetime.now(UTC))
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return ServerCertificate(key, _signed(builder, authority.key).public_bytes(Encoding.PEM))


def make_csr(key: TlsKey, site: str) -> bytes:
    """Ask for a credential: a request in PEM that shows the key is held, with the site's name and nothing else."""
    require_name("site", site)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key.private, hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def issue_credential(
    authority: Authority,
    csr: bytes,
    *,
    site: str,
    life: timedelta = CREDENTIAL_LIFE,
    at: datetime | None = None,
) -> Credential:
    """Issue a site's credential.

    Args:
        authority: Who issues.
        csr: What the site sent; see `make_csr`.
        site: Who the site is, from its token or its present credential; never from the request.
        life: How long it is good. It never outlives the authority.
        at: Now.

    Raises:
        RefusedError: If the request is damaged, not signed by its own key, for another subject, for another
            kind of key, or asks for extensions or attributes.
        ValueError: If `site` is no name or `life` is not above zero.
    """
    require_name("site", site)
    public = _requested_key(csr, site)
    subject = _subject(site, authority.federation)
    builder = _leaf(authority, subject, public, life=life, at=at or datetime.now(UTC))
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    return describe(_signed(builder, authority.key))


def _requested_key(csr: bytes, site: str) -> ec.EllipticCurvePublicKey:
    """Return the key of a request after everything else in it was found to be as `make_csr` writes it."""
    if len(csr) > MAX_CERTIFICATE_BYTES:
        raise RefusedError(
            f"the certificate request has {len(csr)} bytes, at most {MAX_CERTIFICATE_BYTES} are accepted"
        )
    try:
        request = x509.load_pem_x509_csr(csr)
        names = [(attribute.oid, attribute.value) for attribute in request.subject]
        asks = len(request.extensions) + len(request.attributes)
        held = request.is_signature_valid
    except Exception as error:  # the parser's own errors have no common base
        raise RefusedError("the certificate request cannot be read: it is damaged or of an unknown kind") from error
    if names != [(NameOID.COMMON_NAME, site)]:
        raise RefusedError(f"the certificate request must have the subject CN={site} and nothing else")
    if asks:
        raise RefusedError("the certificate request asks for extensions or attributes; it must not")
    if not held:
        raise RefusedError("the certificate request is not signed by its own key")
    return elliptic_key(request)


def _self_signed(key: TlsKey, federation: str, at: datetime) -> x509.Certificate:
    """Make an authority's certificate."""
    name = _subject(_AUTHORITY, federation)
    builder = (
        _dated(name, name, key.public, life=AUTHORITY_LIFE, at=at)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(issues=True), critical=True)
    )
    return _signed(builder, key)


def _leaf(
    authority: Authority, subject: x509.Name, public: ec.EllipticCurvePublicKey, *, life: timedelta, at: datetime
) -> x509.CertificateBuilder:
    """Begin a certificate that can issue no others."""
    if life <= timedelta(0):
        raise ValueError(f"the life of a certificate must be above zero, given {life}")
    if at >= authority.certificate.not_valid_after_utc:
        raise StorageError(
            "the federation's authority expired on "
            f"{shown_time(authority.certificate.not_valid_after_utc)}: make a new one, and enrol the sites again"
        )
    life = min(life, authority.certificate.not_valid_after_utc - at)
    key_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public)
    return (
        _dated(subject, authority.certificate.subject, public, life=life, at=at)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(issues=False), critical=True)
        .add_extension(key_identifier, critical=False)
    )


def _dated(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, *, life: timedelta, at: datetime
) -> x509.CertificateBuilder:
    """Begin a certificate with its names, its key, its time and a random number."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - CLOCK_SKEW)
        .not_valid_after(at + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: TlsKey) -> x509.Certificate:
    """Sign what was built."""
    return builder.sign(key.private, hashes.SHA256())


def _subject(common_name: str, federation: str) -> x509.Name:
    """Return a subject or issuer."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(*, issues: bool) -> x509.KeyUsage:
    """Return what a key may do: sign certificates, or sign for its owner."""
    return x509.KeyUsage(
        digital_signature=not issues,
        key_cert_sign=issues,
        crl_sign=issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
