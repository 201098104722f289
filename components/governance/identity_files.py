"""Where an end keeps who it is, and whom it knows: a site's state folder and a coordinator's secrets.

::

    <state>/keys/signing.key  sealing.key  tls.key     the site's private keys (0600, in a folder of 0700)
    <state>/credential.pem                             its credential, replaced when it is renewed
    <state>/federation.json                            what it pinned: the gateway, its authority, everybody's keys

    <folder>/secrets/ca.key  ca.pem                    the federation's authority
    <folder>/secrets/gateway.key  gateway.pem          the gateway's TLS
    <folder>/secrets/signing.key  sealing.key          the coordinator's private keys

Guarantees: every file is there whole or not at all, and a key that is there is never replaced: what makes keys
can be interrupted at any instant and called again. Files that other users of the machine could read (keys) or
change (all) are refused, with the command that mends it.

Not guaranteed: secrecy from the machine's administrator, or from whoever gets a backup: keep backups of these
folders as you keep keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from components.errors import RefusedError, StorageError
from components.exchange.keys import SealingKey, SigningKey, TlsKey
from components.exchange.secret_files import make_secret_folder, read_secret, write_secret
from components.files import shown
from components.governance.certificates import (
    Authority,
    Credential,
    ServerCertificate,
    issue_server,
    make_authority,
    read_credential,
)
from components.governance.pins import Federation, PinnedKeys, PublicKeys, accept_peer, pin, pin_peers
from components.mistakes import first_mistake

__all__ = [
    "CoordinatorFolder",
    "CoordinatorSecrets",
    "Federation",
    "PinnedKeys",
    "PublicKeys",
    "SiteFolder",
    "SiteKeys",
    "accept_peer",
    "pin",
    "pin_peers",
]

_Key = TypeVar("_Key", SigningKey, SealingKey, TlsKey)


@dataclass(frozen=True)
class SiteKeys:
    """A site's private keys."""

    signing: SigningKey = field(repr=False)
    sealing: SealingKey = field(repr=False)
    tls: TlsKey = field(repr=False)

    @property
    def public(self) -> PublicKeys:
        """What the site sends when it enrols."""
        return PublicKeys(self.signing.public, self.sealing.public)


@dataclass(frozen=True)
class SiteFolder:
    """A site's state folder.

    Args:
        state: The folder; made on the first write.
    """

    state: Path

    @property
    def tls_key(self) -> Path:
        """File of the TLS key, for a TLS library."""
        return self.state / "keys" / "tls.key"

    @property
    def credential(self) -> Path:
        """File of the credential, for a TLS library."""
        return self.state / "credential.pem"

    @property
    def federation(self) -> Path:
        """File of what was pinned."""
        return self.state / "federation.json"

    def make_keys(self) -> SiteKeys:
        """Make the keys that are not there yet, and return all; two processes at once get the same ones.

        Raises:
            StorageError: If a file cannot be written, is damaged, or others may read it.
        """
        make_secret_folder(self.state)
        return SiteKeys(
            _make_key(SigningKey, self.state / "keys" / "signing.key"),
            _make_key(SealingKey, self.state / "keys" / "sealing.key"),
            _make_key(TlsKey, self.tls_key),
        )

    def read_keys(self) -> SiteKeys:
        """Return the keys.

        Raises:
            StorageError: If one is not there, is damaged, or others may read it.
        """
        keys = self.state / "keys"
        return SiteKeys(
            SigningKey.load(keys / "signing.key"), SealingKey.load(keys / "sealing.key"), TlsKey.load(self.tls_key)
        )

    def write_credential(self, pem: bytes) -> Credential:
        """Keep a credential, in the place of the last one.

        Raises:
            RefusedError: If it is no credential, or not for this site's TLS key.
            StorageError: If it cannot be written, or the key not read.
        """
        credential = read_credential(pem)
        if credential.public != TlsKey.load(self.tls_key).public:
            raise RefusedError(f"the credential of {credential.site} is for another TLS key than this site's")
        write_secret(self.credential, credential.pem)
        return credential

    def read_credential(self) -> Credential:
        """Return the credential; whether it is still good is for `verify_chain` to say.

        Raises:
            StorageError: If it is not there, is damaged, or others may change it.
        """
        try:
            return read_credential(read_secret(self.credential, public=True))
        except RefusedError as error:
            raise _damaged(self.credential, error) from error

    def write_federation(self, pinned: Federation) -> None:
        """Keep what was pinned; `StorageError` if it cannot be written."""
        write_secret(self.federation, (pinned.model_dump_json(indent=2) + "\n").encode())

    def read_federation(self) -> Federation:
        """Return what was pinned.

        Raises:
            StorageError: If it is not there, is damaged, or others may change it.
        """
        try:
            return Federation.model_validate_json(read_secret(self.federation, public=True))
        except ValidationError as error:
            raise _damaged(self.federation, first_mistake(error, "the file")) from error


@dataclass(frozen=True)
class CoordinatorSecrets:
    """What a coordinator and its gateway sign, issue and open with."""

    authority: Authority = field(repr=False)
    signing: SigningKey = field(repr=False)
    sealing: SealingKey = field(repr=False)

    @property
    def public(self) -> PublicKeys:
        """What sites pin."""
        return PublicKeys(self.signing.public, self.sealing.public)


@dataclass(frozen=True)
class CoordinatorFolder:
    """A coordinator's folder.

    Args:
        folder: The folder; its secrets lie in ``secrets``.
    """

    folder: Path

    @property
    def secrets(self) -> Path:
        """Folder of the secrets."""
        return self.folder / "secrets"

    @property
    def authority(self) -> Path:
        """File of the authority's certificate, for a TLS library."""
        return self.secrets / "ca.pem"

    @property
    def gateway_key(self) -> Path:
        """File of the gateway's TLS key, for a TLS library."""
        return self.secrets / "gateway.key"

    @property
    def gateway_certificate(self) -> Path:
        """File of the gateway's certificate, for a TLS library."""
        return self.secrets / "gateway.pem"

    def make(
        self, federation: str, *, names: Sequence[str], ips: Sequence[str] = (), at: datetime | None = None
    ) -> CoordinatorSecrets:
        """Make the secrets that are not there yet, and return all; two processes at once get the same ones.

        Args:
            federation: Identifier of the federation.
            names: Host names of the gateway; used if it has no certificate yet.
            ips: Its addresses.
            at: Now.

        Raises:
            StorageError: If a file cannot be written, is damaged, of another federation, or others may read it.
            ValueError: If a name or an address is not valid.
        """
        at = at or datetime.now(UTC)
        authority = make_authority(federation, self.secrets, at=at)
        _make_key(SigningKey, self.secrets / "signing.key")
        _make_key(SealingKey, self.secrets / "sealing.key")
        if not self.gateway_certificate.exists():
            self.write_gateway(authority, names=names, ips=ips, at=at)
        return self.read()

    def read(self) -> CoordinatorSecrets:
        """Return the secrets.

        Raises:
            StorageError: If one is not there, is damaged, or others may read it.
        """
        return CoordinatorSecrets(
            Authority.load(self.secrets),
            SigningKey.load(self.secrets / "signing.key"),
            SealingKey.load(self.secrets / "sealing.key"),
        )

    def write_gateway(
        self, authority: Authority, *, names: Sequence[str], ips: Sequence[str] = (), at: datetime | None = None
    ) -> ServerCertificate:
        """Issue the gateway's certificate anew for its key: under other names, or before it expires.

        Raises:
            StorageError: If a file cannot be written, is damaged, or others may read it.
            ValueError: If a name or an address is not valid.
        """
        key = _make_key(TlsKey, self.gateway_key)
        server = issue_server(authority, names, ips, key=key, at=at)
        write_secret(self.gateway_certificate, server.pem)
        return server

    def read_gateway(self) -> ServerCertificate:
        """Return the gateway's certificate; `StorageError` if it is not there, or others may change it."""
        return ServerCertificate(TlsKey.load(self.gateway_key), read_secret(self.gateway_certificate, public=True))


def _make_key(kind: type[_Key], path: Path) -> _Key:
    """Make a key unless there is one, and return the one that is there now."""
    if not path.exists():
        kind.generate().save(path, once=True)
    return kind.load(path)


def _damaged(path: Path, problem: object) -> StorageError:
    """Name a file that cannot be used, and what to do."""
    return StorageError(f"{shown(path)} cannot be used: {problem}. Put it back from a backup; without one, enrol again")
