import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from components.errors import RefusedError
from components.exchange.keys import TlsKey
from components.governance.certificates import Authority, issue_credential, issue_server, make_csr
from components.governance.credentials import (
    MAX_CERTIFICATE_BYTES,
    Credential,
    read_authority,
    read_credential,
    verify_chain,
)
from components.rounds import Name, Record

KEY = TlsKey.generate()


@pytest.fixture
def credential(authority: Authority, now: datetime) -> Credential:
    return issue_credential(authority, make_csr(KEY, "north"), site="north", at=now)


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def certificate(
    signer: TlsKey, *, key: Any = None, issuer: Any = None, cn: list[str] | None = None, **changes: Any
) -> bytes:
    """A certificate such as an attacker, or a mistaken authority, might make."""
    federation = changes.get("federation", "fed-1")
    parts = [(NameOID.ORGANIZATION_NAME, federation), *((NameOID.COMMON_NAME, name) for name in cn or ["north"])]
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])
    start = datetime(2026, 11, 22, tzinfo=UTC)
    builder = x509.CertificateBuilder(issuer_name=issuer or subject, subject_name=subject)
    builder = builder.public_key((key or KEY.private).public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=7))
    if changes.get("constraints", True):
        builder = builder.add_extension(x509.BasicConstraints(ca=changes.get("ca", False), path_length=None), True)
    for purposes in changes.get("purposes", [[ExtendedKeyUsageOID.CLIENT_AUTH]]):
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(signer.private, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_credential_is_accepted_in_der_and_pem(authority: Authority, credential: Credential, now: datetime) -> None:
    for data in (credential.pem, der(credential.pem)):
        for ca in (authority.pem, der(authority.pem)):
            assert verify_chain(data, ca, now) == credential == read_credential(data)


def test_what_it_says_is_what_was_issued(credential: Credential, now: datetime) -> None:
    assert (credential.site, credential.federation) == ("north", "fed-1")
    assert credential.not_after == now + timedelta(days=7)
    assert now - timedelta(minutes=15) == credential.not_before
    assert credential.public == KEY.public
    assert int(credential.serial, 16) == x509.load_pem_x509_certificate(credential.pem).serial_number


def test_it_is_renewed_when_two_thirds_are_over(credential: Credential) -> None:
    passed = credential.renew_at - credential.not_before
    assert passed * 3 == (credential.not_after - credential.not_before) * 2


@pytest.mark.parametrize("days", [0, 1, 6.99])
def test_it_is_good_within_its_time(authority: Authority, credential: Credential, now: datetime, days: float) -> None:
    assert verify_chain(credential.pem, authority.pem, now + timedelta(days=days)) == credential


def test_expired_and_early_are_refused_with_the_day(
    authority: Authority, credential: Credential, now: datetime
) -> None:
    with pytest.raises(RefusedError, match=r"north's credential expired on 2026-11-29 12:00:00\+00:00: enrol again"):
        verify_chain(credential.pem, authority.pem, now + timedelta(days=7, seconds=1))
    verify_chain(credential.pem, authority.pem, now - timedelta(minutes=14))
    with pytest.raises(RefusedError, match=r"good from 2026-11-22 11:45:00\+00:00 only: .*; compare the clocks"):
        verify_chain(credential.pem, authority.pem, now - timedelta(minutes=16))


def test_another_authority_of_the_same_name_is_refused(
    other_authority: Authority, authority: Authority, credential: Credential, now: datetime
) -> None:
    with pytest.raises(RefusedError, match="not issued by this federation's authority"):
        verify_chain(credential.pem, other_authority.pem, now)
    with pytest.raises(RefusedError, match="not issued by this federation's authority"):
        verify_chain(certificate(KEY, issuer=authority.certificate.subject), authority.pem, now)


def test_a_site_cannot_issue_credentials(authority: Authority, credential: Credential, now: datetime) -> None:
    issuer = x509.load_pem_x509_certificate(credential.pem).subject
    below = certificate(KEY, key=TlsKey.generate().private, issuer=issuer, cn=["south"])
    with pytest.raises(RefusedError, match="not issued by this federation's authority"):
        verify_chain(below, authority.pem, now)
    with pytest.raises(RefusedError, match="not that of a federation's authority"):
        verify_chain(below, credential.pem, now)


def test_the_gateway_and_the_authority_are_not_sites(authority: Authority, now: datetime) -> None:
    server = issue_server(authority, ["localhost"], at=now)
    for pem in (server.pem, authority.pem):
        with pytest.raises(RefusedError, match="not a site's credential"):
            verify_chain(pem, authority.pem, now)


@pytest.mark.parametrize(
    "changes",
    [
        {"purposes": []},
        {"purposes": [[ExtendedKeyUsageOID.SERVER_AUTH]]},
        {"purposes": [[ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]]},
        {"purposes": [[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]]},
        {"constraints": False},
        {"ca": True},
    ],
    ids=str,
)
def test_a_certificate_of_another_purpose_is_refused_although_truly_issued(
    authority: Authority, now: datetime, changes: dict[str, Any]
) -> None:
    pem = certificate(authority.key, issuer=authority.certificate.subject, **changes)
    with pytest.raises(RefusedError, match="not a site's credential"):
        verify_chain(pem, authority.pem, now)
    assert verify_chain(certificate(authority.key, issuer=authority.certificate.subject), authority.pem, now)


@pytest.mark.parametrize("cn", [["../north"], ["north", "south"], ["nörth"], ["-north"], ["north "]])
def test_a_subject_that_is_not_one_site_is_refused(authority: Authority, now: datetime, cn: list[str]) -> None:
    pem = certificate(authority.key, issuer=authority.certificate.subject, cn=cn)
    with pytest.raises(RefusedError, match="subject is not one site of one federation"):
        verify_chain(pem, authority.pem, now)


def test_another_federation_under_the_same_authority_is_refused(authority: Authority, now: datetime) -> None:
    pem = certificate(authority.key, issuer=authority.certificate.subject, federation="fed-2")
    assert read_credential(pem).federation == "fed-2"
    with pytest.raises(RefusedError, match="the credential is for federation 'fed-2'"):
        verify_chain(pem, authority.pem, now)


def test_a_changed_certificate_is_refused(authority: Authority, credential: Credential, now: datetime) -> None:
    data = bytearray(der(credential.pem))
    data[data.index(b"north")] ^= 1
    with pytest.raises(RefusedError, match="not issued by this federation's authority"):
        verify_chain(bytes(data), authority.pem, now)


def test_what_is_not_one_certificate_is_refused(credential: Credential) -> None:
    raw = der(credential.pem)
    twice = credential.pem * 2
    for data in (b"", b"-----", b"nonsense", raw[:-1], raw + b"\0", twice, KEY.to_pem(), credential.pem[:-40]):
        with pytest.raises(RefusedError, match="not one certificate in DER or PEM"):
            read_credential(data)
    with pytest.raises(RefusedError, match=f"at most {MAX_CERTIFICATE_BYTES}"):
        read_credential(b"x" * (MAX_CERTIFICATE_BYTES + 1))


def test_a_credential_for_another_kind_of_key_is_refused(authority: Authority) -> None:
    pem = certificate(authority.key, key=Ed25519PrivateKey.generate(), issuer=authority.certificate.subject)
    with pytest.raises(RefusedError, match="must be for an EC P-256 key"):
        read_credential(pem).verify(b"text", b"signature")


def test_what_is_no_authority_is_not_pinned(authority: Authority, credential: Credential) -> None:
    assert read_authority(authority.pem) == authority.certificate
    assert read_authority(certificate(KEY, ca=True))
    below = certificate(authority.key, issuer=authority.certificate.subject, ca=True)
    for pem in (credential.pem, certificate(KEY), certificate(KEY, constraints=False), below):
        with pytest.raises(RefusedError, match="not that of a federation's authority"):
            read_authority(pem)


def test_a_request_signed_by_the_credentials_key_is_accepted_and_no_other(credential: Credential) -> None:
    credential.verify(b"text", KEY.sign(b"text"))
    for data, signature in (
        (b"other", KEY.sign(b"text")),
        (b"text", TlsKey.generate().sign(b"text")),
        (b"text", b""),
        (b"text", KEY.sign(b"text") + b"\0"),
    ):
        with pytest.raises(RefusedError, match="not that of north's credential"):
            credential.verify(data, signature)


class Named(Record):
    name: Name


@pytest.mark.parametrize(
    "name", ["north", "a", "A.b_c-1", "a" * 63, "a" * 64, "", ".a", "-a", "a b", "ä", "a/b", "a\n"]
)
def test_names_are_those_of_the_records(name: str) -> None:
    def accepted(make: Any) -> bool:
        with suppress(ValueError):
            make()
            return True
        return False

    assert accepted(lambda: make_csr(KEY, name)) == accepted(lambda: Named(name=name))


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes | str:
    """What the server sees of a client on loopback: its certificate in DER, or why the two did not meet."""
    errors: list[str] = []
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                with listener.accept()[0] as raw, server.wrap_socket(raw, server_side=True) as connection:
                    seen.append(connection.getpeercert(binary_form=True) or b"")
                    connection.sendall(b"x")
            except OSError as error:
                errors.append(str(error))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=20) as raw,
                client.wrap_socket(raw, server_hostname="localhost") as connection,
            ):
                connection.recv(1)
        except OSError as error:
            errors.append(str(error))
        thread.join(20)
    return " / ".join(errors) if errors else seen[0]


def context(side: Any, folder: Path, authority: Authority, identity: tuple[TlsKey, bytes] | None) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=authority.pem.decode())
    if identity:
        (folder / "key").write_bytes(identity[0].to_pem())
        (folder / "pem").write_bytes(identity[1])
        made.load_cert_chain(folder / "pem", folder / "key")
    return made


@pytest.fixture
def contexts(authority: Authority, other_authority: Authority, tmp_path: Path) -> dict[str, ssl.SSLContext]:
    """Both ends, and those who should not pass; on the machine's own clock, as TLS is."""
    credential = issue_credential(authority, make_csr(KEY, "north"), site="north")
    gateway = issue_server(authority, ["localhost"], ["127.0.0.1"])
    stranger = issue_credential(other_authority, make_csr(KEY, "north"), site="north")
    elsewhere = issue_server(authority, ["elsewhere.example"])
    server, client = ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT
    site = (KEY, credential.pem)
    return {
        "gateway": context(server, tmp_path, authority, (gateway.key, gateway.pem)),
        "site as gateway": context(server, tmp_path, authority, site),
        "elsewhere": context(server, tmp_path, authority, (elsewhere.key, elsewhere.pem)),
        "site": context(client, tmp_path, authority, site),
        "site of another": context(client, tmp_path, authority, (KEY, stranger.pem)),
        "gateway as site": context(client, tmp_path, authority, (gateway.key, gateway.pem)),
        "nobody": context(client, tmp_path, authority, None),
    }


def test_gateway_and_site_meet_over_tls(authority: Authority, contexts: dict[str, ssl.SSLContext]) -> None:
    seen = handshake(contexts["gateway"], contexts["site"])
    assert isinstance(seen, bytes)
    assert verify_chain(seen, authority.pem, datetime.now(UTC)).site == "north"


@pytest.mark.parametrize(
    ("server", "client", "why"),
    [
        ("gateway", "site of another", "certificate verify failed"),
        ("gateway", "gateway as site", "certificate verify failed: unsuitable certificate purpose"),
        ("gateway", "nobody", "peer did not return a certificate"),
        ("site as gateway", "site", "purpose|unsuitable|key usage|not match|not valid"),
        ("elsewhere", "site", "not match|not valid|mismatch"),
    ],
)
def test_tls_refuses_whoever_is_not_who_it_says(
    contexts: dict[str, ssl.SSLContext], server: str, client: str, why: str
) -> None:
    seen = handshake(contexts[server], contexts[client])
    assert isinstance(seen, str)
    assert any(word in seen for word in why.split("|")), seen
