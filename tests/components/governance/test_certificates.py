import os
import stat
from base64 import encodebytes
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from components.errors import RefusedError, StorageError
from components.exchange.keys import TlsKey
from components.governance.certificates import (
    Authority,
    issue_credential,
    issue_server,
    make_authority,
    make_csr,
    verify_chain,
)

KEY = TlsKey.generate()


def extensions(pem: bytes) -> dict[str, tuple[bool, str]]:
    found = x509.load_pem_x509_certificate(pem).extensions
    return {extension.oid._name: (extension.critical, str(extension.value)) for extension in found}


def test_an_authority_signs_certificates_and_no_authorities(authority: Authority, now: datetime) -> None:
    found = extensions(authority.pem)
    assert found.keys() == {"subjectKeyIdentifier", "basicConstraints", "keyUsage"}
    assert found["basicConstraints"] == (True, "<BasicConstraints(ca=True, path_length=0)>")
    assert "key_cert_sign=True" in found["keyUsage"][1]
    assert "digital_signature=False" in found["keyUsage"][1]
    assert authority.certificate.not_valid_after_utc > now + timedelta(days=3650)
    assert authority.federation == "fed-1"


def test_a_credential_has_exactly_these_extensions(authority: Authority, now: datetime) -> None:
    found = extensions(issue_credential(authority, make_csr(KEY, "north"), site="north", at=now).pem)
    names = {"subjectKeyIdentifier", "authorityKeyIdentifier", "basicConstraints", "keyUsage", "extendedKeyUsage"}
    assert found.keys() == names
    assert found["basicConstraints"] == (True, "<BasicConstraints(ca=False, path_length=None)>")
    assert "key_cert_sign=False" in found["keyUsage"][1]
    assert "clientAuth" in found["extendedKeyUsage"][1]
    assert "serverAuth" not in found["extendedKeyUsage"][1]


def test_a_server_has_its_names_and_addresses(authority: Authority, now: datetime) -> None:
    server = issue_server(authority, ["gateway.example", "localhost"], ["127.0.0.1", "::1"], at=now)
    found = x509.load_pem_x509_certificate(server.pem)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gateway.example", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert found.public_key() == server.key.public
    assert server.not_after == now + timedelta(days=398)
    assert "serverAuth" in extensions(server.pem)["extendedKeyUsage"][1]


@pytest.mark.parametrize(
    ("names", "ips"), [([], []), ([""], []), (["bücher.example"], []), ([], ["300.1.1.1"]), (["a"], [""])]
)
def test_a_server_without_a_valid_name_is_a_mistake(authority: Authority, names: list[str], ips: list[str]) -> None:
    with pytest.raises(ValueError, match=r"at least one host name|A-label|IDNA|does not appear to be"):
        issue_server(authority, names, ips)


@pytest.mark.parametrize("life", [timedelta(0), timedelta(seconds=-1)])
def test_a_life_is_above_zero(authority: Authority, life: timedelta) -> None:
    with pytest.raises(ValueError, match="must be above zero"):
        issue_credential(authority, make_csr(KEY, "north"), site="north", life=life)


def test_the_life_is_what_was_asked_but_never_beyond_the_authoritys(authority: Authority, now: datetime) -> None:
    def end(life: timedelta, at: datetime) -> datetime:
        return issue_credential(authority, make_csr(KEY, "north"), site="north", life=life, at=at).not_after

    last = authority.certificate.not_valid_after_utc
    assert end(timedelta(seconds=90), now) == now + timedelta(seconds=90)
    assert end(timedelta(days=7), last - timedelta(days=1)) == last
    with pytest.raises(StorageError, match=r"the federation's authority expired on 2036-11-22 .*: make a new one"):
        end(timedelta(days=7), last)


def test_every_certificate_has_a_number_of_its_own(authority: Authority) -> None:
    csr = make_csr(KEY, "north")
    assert len({issue_credential(authority, csr, site="north").serial for _ in range(20)}) == 20


def request(key: Any = KEY.private, *, names: Any = ((NameOID.COMMON_NAME, "north"),), change: Any = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in names]))
    builder = change(builder) if change else builder
    algorithm = None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def refused(authority: Authority, csr: bytes, match: str) -> None:
    with pytest.raises(RefusedError, match=match):
        issue_credential(authority, csr, site="north")


def test_a_request_as_any_tool_makes_it_is_accepted(authority: Authority, now: datetime) -> None:
    credential = issue_credential(authority, request(), site="north", at=now)
    assert verify_chain(credential.pem, authority.pem, now).site == "north"


SUBJECTS = [
    [],
    [(NameOID.COMMON_NAME, "south")],
    [(NameOID.COMMON_NAME, "north"), (NameOID.COMMON_NAME, "south")],
    [(NameOID.COMMON_NAME, "north"), (NameOID.ORGANIZATION_NAME, "fed-1")],
    [(NameOID.ORGANIZATION_NAME, "north")],
    [(NameOID.COMMON_NAME, "north ")],
    [(NameOID.COMMON_NAME, "North")],
]


@pytest.mark.parametrize("names", SUBJECTS)
def test_a_request_for_another_subject_is_refused(authority: Authority, names: Any) -> None:
    refused(authority, request(names=names), "must have the subject CN=north and nothing else")


ASKED: list[Any] = [
    lambda b: b.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True),
    lambda b: b.add_extension(x509.SubjectAlternativeName([x509.DNSName("gateway.example")]), critical=False),
    lambda b: b.add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=False
    ),
    lambda b: b.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"word"),
]


@pytest.mark.parametrize("change", ASKED)
def test_a_request_for_extensions_or_attributes_is_refused(authority: Authority, change: Any) -> None:
    refused(authority, request(change=change), "asks for extensions or attributes")


def test_a_request_for_another_kind_of_key_is_refused(authority: Authority) -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()):
        refused(authority, request(key), "must be for an EC P-256 key")


def test_a_request_for_somebody_elses_key_is_refused(authority: Authority) -> None:
    """The key of another request is put into one's own: the signature no longer fits."""
    mine = x509.load_pem_x509_csr(make_csr(KEY, "north")).public_bytes(Encoding.DER)
    theirs = TlsKey.generate().public
    numbers, wanted = KEY.public.public_numbers(), theirs.public_numbers()
    for have, want in ((numbers.x, wanted.x), (numbers.y, wanted.y)):
        mine = mine.replace(have.to_bytes(32, "big"), want.to_bytes(32, "big"))
    stolen = x509.load_der_x509_csr(mine)
    assert stolen.public_key() == theirs
    refused(authority, stolen.public_bytes(Encoding.PEM), "not signed by its own key")


@pytest.mark.parametrize("csr", [b"", b"nonsense", make_csr(KEY, "north")[:-60], KEY.to_pem(), b"\xff" * 100])
def test_what_is_no_request_is_refused(authority: Authority, csr: bytes) -> None:
    refused(authority, csr, "cannot be read")


def test_a_request_without_end_is_refused(authority: Authority) -> None:
    refused(authority, b"x" * 20_000, "has 20000 bytes, at most 16384")


def test_every_damaged_request_is_refused_in_words(authority: Authority) -> None:
    der = x509.load_pem_x509_csr(make_csr(KEY, "north")).public_bytes(Encoding.DER)
    for at in range(len(der)):
        data = bytearray(der)
        data[at] ^= 0x41
        lines = request_pem(bytes(data))
        with pytest.raises(RefusedError):
            issue_credential(authority, lines, site="north")


def request_pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + encodebytes(der) + b"-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize("name", ["", "../x", "a b", "a" * 64])
def test_names_are_checked(authority: Authority, tmp_path: Path, name: str) -> None:
    for make in (
        lambda: make_csr(KEY, name),
        lambda: issue_credential(authority, make_csr(KEY, "north"), site=name),
        lambda: make_authority(name, tmp_path / "secrets"),
    ):
        with pytest.raises(ValueError, match="must match"):
            make()
    assert list(tmp_path.iterdir()) == []


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_authority_lies_in_files_that_only_its_owner_reads(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_authority("fed-1", tmp_path / "secrets")
    finally:
        os.umask(before)
    assert mode(tmp_path / "secrets") == 0o700
    assert {path.name: mode(path) for path in (tmp_path / "secrets").iterdir()} == {"ca.key": 0o600, "ca.pem": 0o600}


def test_an_authority_that_is_there_is_kept(tmp_path: Path) -> None:
    first = make_authority("fed-1", tmp_path / "secrets")
    assert make_authority("fed-1", tmp_path / "secrets").sha256 == first.sha256
    with pytest.raises(StorageError, match="holds the authority of federation 'fed-1', not 'fed-2'"):
        make_authority("fed-2", tmp_path / "secrets")


def test_an_interrupted_beginning_is_gone_on_with(tmp_path: Path) -> None:
    key = TlsKey.generate()
    key.save(tmp_path / "secrets" / "ca.key")
    assert make_authority("fed-1", tmp_path / "secrets").key.public == key.public


def test_of_many_at_once_all_get_the_same_authority(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda _: make_authority("fed-1", tmp_path / "secrets").sha256, range(8))
    assert len(set(made)) == 1


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, other_authority: Authority) -> None:
    authority = make_authority("fed-1", tmp_path / "secrets")
    (tmp_path / "secrets" / "ca.pem").write_bytes(other_authority.pem)
    with pytest.raises(StorageError, match=r"ca\.key and .*ca\.pem do not belong together"):
        Authority.load(tmp_path / "secrets")
    leaf = issue_credential(authority, make_csr(KEY, "north"), site="north")
    (tmp_path / "secrets" / "ca.pem").write_bytes(leaf.pem)
    with pytest.raises(StorageError, match=r"ca\.pem cannot be used: this certificate is not that of .*backup"):
        Authority.load(tmp_path / "secrets")


def test_the_authoritys_key_is_not_shown(authority: Authority) -> None:
    assert "key=" not in repr(authority)
