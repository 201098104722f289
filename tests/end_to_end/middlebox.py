"""A network's proxy for outgoing HTTPS, as hospitals have it: it takes CONNECT, and may look into what passes.

What it does not map to an address is not reachable through it. Where it inspects, it ends TLS with a certificate of
its own authority and speaks TLS of its own to where it connects, so that every byte of HTTP is seen in the clear.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.end_to_end.served import Served

PIECE = 1 << 16


@dataclass
class Connection:
    """One CONNECT, and what passed through it: in the clear if it was inspected, else as it was on the wire."""

    target: str
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


class Middlebox(Served):
    """A proxy in a thread of its own.

    Args:
        names: Where each name and port, ``HOST:PORT`` as hospitals say it, is: an address and a port.
        authority: The folder of its own authority, if it inspects.
        trusts: The authority that it verifies whom it connects to by, if it inspects.
    """

    def __init__(
        self, names: Mapping[str, tuple[str, int]], *, authority: Path | None = None, trusts: Path | None = None
    ) -> None:
        self.names = dict(names)
        self.lines: list[str] = []
        self.connections: list[Connection] = []
        self._authority, self._trusts = authority, trusts
        super().__init__()

    @property
    def url(self) -> str:
        """What ``HTTPS_PROXY`` says."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def inspected(self) -> bytes:
        """Everything that passed, in both directions."""
        return b"\n".join(bytes(half) for made in self.connections for half in (made.sent, made.received))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
            line = head.splitlines()[0]
            self.lines.append(line)
            method, target, _ = line.split(" ")
            if method != "CONNECT" or target not in self.names:
                writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            made = Connection(target)
            self.connections.append(made)
            there, upstream = await self._connect(target)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            if self._authority is not None:
                await writer.start_tls(certificate_of(self._authority, target.partition(":")[0]))
            await asyncio.gather(pump(reader, upstream, made.sent), pump(there, writer, made.received))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of the two has gone, or all of it ends
        finally:
            for end in filter(None, (writer, upstream)):
                with suppress(OSError):
                    end.close()

    async def _connect(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.names[target]
        if self._authority is None:
            return await asyncio.open_connection(host, port)
        context = ssl.create_default_context(cafile=self._trusts)
        context.check_hostname = False  # this network has names of its own
        return await asyncio.open_connection(host, port, ssl=context, server_hostname=host)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    """Pass on what comes, and keep it."""
    try:
        while piece := await reader.read(PIECE):
            kept += piece
            writer.write(piece)
            await writer.drain()
    finally:
        with suppress(OSError, RuntimeError):
            writer.close()


@contextmanager
def middlebox(names: Mapping[str, tuple[str, int]], **inspection: Path) -> Iterator[Middlebox]:
    """A proxy that runs."""
    made = Middlebox(names, **inspection)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def make_authority(folder: Path) -> Path:
    """Make the authority of a network that inspects TLS; return the file an administrator would be given."""
    folder.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A hospital's network")])
    certificate = _builder(name, name, key).add_extension(x509.BasicConstraints(True, 0), critical=True)
    _write(folder / "ca.pem", certificate.sign(key, hashes.SHA256()), key)
    (folder / "given.pem").write_bytes((folder / "ca.pem").read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    return folder / "given.pem"


def certificate_of(folder: Path, host: str) -> ssl.SSLContext:
    """Return the middlebox's side of TLS for a host: a certificate made on the spot."""
    path = folder / f"{host}.pem"
    if not path.exists():
        held = (folder / "ca.pem").read_bytes()
        authority = x509.load_pem_x509_certificate(held)
        signer = serialization.load_pem_private_key(held, None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        own = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        made = _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), authority.subject, key)
        made = made.add_extension(x509.SubjectAlternativeName([own]), critical=False)
        _write(path, made.sign(signer, hashes.SHA256()), key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    )  # fmt: skip


def _write(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
