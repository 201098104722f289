"""The keys an end knows: seen once, pinned with the day, and not accepted to change.

Guarantees (`pin_peers`): a peer that is known keeps its keys, whatever the gateway says, unless an administrator
accepts other ones (`accept_peer`).

Not guaranteed: that the first keys were the right ones. The coordinator's come over a connection whose authority
the token names; to be sure of a peer's, compare its fingerprint with its administrator, by another way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Self

from pydantic import Field, model_validator

from components.errors import RefusedError
from components.exchange.keys import SealingPublicKey, VerifyKey
from components.governance.certificates import read_authority
from components.rounds import Name, Record

_GATEWAY = re.compile(r"https://[^\s/?#@]+")


@dataclass(frozen=True)
class PublicKeys:
    """The public keys of one end: what it sends when it enrols, and what others pin."""

    signing: VerifyKey
    sealing: SealingPublicKey

    @classmethod
    def from_json(cls, fields: object) -> Self:
        """Read keys that came over the wire.

        Raises:
            RefusedError: If these are not exactly the two keys in base64.
        """
        if not isinstance(fields, Mapping) or set(fields) != {"signing", "sealing"}:
            raise RefusedError("public keys must be an object with exactly 'signing' and 'sealing'")
        if not all(isinstance(value, str) for value in fields.values()):
            raise RefusedError("public keys must be text in base64")
        return cls(VerifyKey.from_base64(fields["signing"]), SealingPublicKey.from_base64(fields["sealing"]))

    def to_json(self) -> dict[str, str]:
        """Return the keys as they travel."""
        return {"signing": self.signing.base64, "sealing": self.sealing.base64}


class PinnedKeys(Record):
    """Keys of one end that are not accepted to change.

    Attributes:
        signing: Its Ed25519 key in base64.
        signing_fingerprint: Its fingerprint, for people.
        sealing: Its X25519 key in base64.
        sealing_fingerprint: Its fingerprint, for people.
        first_seen: The day these keys were pinned.
    """

    signing: str
    signing_fingerprint: str
    sealing: str
    sealing_fingerprint: str
    first_seen: date

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse a fingerprint that is not that of its key: people would compare the wrong one."""
        try:
            keys = self.keys
        except RefusedError as error:
            raise ValueError(str(error)) from error
        found = (keys.signing.fingerprint, keys.sealing.fingerprint)
        if found != (self.signing_fingerprint, self.sealing_fingerprint):
            raise ValueError("a fingerprint is not that of its key")
        return self

    @property
    def keys(self) -> PublicKeys:
        """The keys."""
        return PublicKeys(VerifyKey.from_base64(self.signing), SealingPublicKey.from_base64(self.sealing))


class Federation(Record):
    """What a site pinned.

    Attributes:
        federation: Identifier of the federation.
        site: Name of this site in it.
        gateway: Address of the gateway, ``https://HOST:PORT``.
        ca: The authority's certificate in PEM.
        coordinator: The coordinator's keys.
        peers: The other sites' keys, by name.
    """

    federation: Name
    site: Name
    gateway: str
    ca: str
    coordinator: PinnedKeys
    peers: dict[Name, PinnedKeys] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        """Refuse an address without TLS, and a certificate that is not an authority's."""
        if not _GATEWAY.fullmatch(self.gateway):
            raise ValueError(f"gateway must be https://HOST or https://HOST:PORT, given {self.gateway!r}")
        try:
            read_authority(self.ca.encode())
        except RefusedError as error:
            raise ValueError(f"ca: {error}") from error
        return self


def pin(keys: PublicKeys, on: date) -> PinnedKeys:
    """Pin keys that were seen for the first time on some day."""
    return PinnedKeys(
        signing=keys.signing.base64,
        signing_fingerprint=keys.signing.fingerprint,
        sealing=keys.sealing.base64,
        sealing_fingerprint=keys.sealing.fingerprint,
        first_seen=on,
    )


def pin_peers(pinned: Federation, peers: Mapping[str, PublicKeys], on: date) -> Federation:
    """Pin the peers that are new; those that are known must have the keys they had.

    A peer that is not named stays pinned: should it come back, its keys are still known.

    Raises:
        RefusedError: If a peer that is known has other keys now.
    """
    known = dict(pinned.peers)
    for site, keys in sorted(peers.items()):
        if site == pinned.site:
            continue
        if site in known and known[site].keys != keys:
            raise RefusedError(
                f"the keys of {site} are not those first seen on {known[site].first_seen}: its signing key was "
                f"{known[site].signing_fingerprint} and is now {keys.signing.fingerprint}. If {site} enrolled anew, "
                "compare the fingerprint with its administrator, then accept it"
            )
        known.setdefault(site, pin(keys, on))
    return _changed(pinned, known)


def accept_peer(pinned: Federation, site: str, keys: PublicKeys, on: date) -> Federation:
    """Pin the new keys of a peer, whose fingerprints an administrator compared with the peer's."""
    return _changed(pinned, {**pinned.peers, site: pin(keys, on)})


def _changed(pinned: Federation, peers: dict[str, PinnedKeys]) -> Federation:
    """Return what was pinned with other peers, checked anew."""
    return Federation.model_validate({**dict(pinned), "peers": dict(sorted(peers.items()))})
