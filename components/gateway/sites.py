"""The sites of a federation as the gateway knows them: invited, enrolled, ready, left or revoked.

::

    invite -> invited -> enrol -> enrolled -> doctor passed -> ready
                          any of them -> leave -> left, revoke -> revoked     (invite starts anew)

"Ready" means enrolled and examined, with the date; not that a process is alive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, insert, select, update

from components.errors import RefusedError
from components.gateway.claims import renew
from components.gateway.database import Database, credentials, grants, nonces, sites, slot_grants, spoken, tokens
from components.gateway.tokens import Invitation, Token, hash_secret, make_token

Status = Literal["invited", "enrolled", "ready", "left", "revoked"]
ACTIVE: tuple[Status, ...] = ("enrolled", "ready")
TOKEN_LIFE_S = 7 * 86400.0
_ALL = select(sites, spoken.c.protocol).outerjoin(spoken, spoken.c.site == sites.c.name)


@dataclass(frozen=True)
class Site:
    """What is known of a site; times in seconds since 1970.

    Attributes:
        signing_key: Its public Ed25519 key, standard base64; None before it enrolled. So `sealing_key` (X25519).
        serial: Of its newest credential, which ends at `not_after`.
        version: The WardRound it last reported.
        protocol: The version of the protocol it last said it speaks; None if it never did.
        activity: What it said it was doing at `last_seen`.
        doctor: Its last report about itself, of `doctor_at`.
    """

    name: str
    status: Status
    signing_key: str | None
    sealing_key: str | None
    enrolled_at: float | None
    serial: str | None
    not_after: float | None
    version: str | None
    last_seen: float | None
    activity: dict[str, Any] | None
    doctor: dict[str, Any] | None
    doctor_at: float | None
    protocol: int | None = None

    @property
    def active(self) -> bool:
        """Whether its credential opens the door."""
        return self.status in ACTIVE


@dataclass(frozen=True)
class NewSite:
    """What a site brings to its enrolment.

    Attributes:
        signing_key: Public Ed25519 key, standard base64. So `sealing_key` (X25519).
        claim: What its keys are, hashed: a site whose answer was lost may ask again with the same keys.
    """

    signing_key: str
    sealing_key: str
    claim: str


@dataclass(frozen=True)
class Issued:
    """What the database keeps of a credential: its serial number (hexadecimal) and its end."""

    serial: str
    not_after: float


class Sites:
    """The sites of one federation.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def invite(self, invitation: Invitation, *, life_s: float = TOKEN_LIFE_S) -> Token:
        """Make a token for a site, and the site if it is new; earlier tokens for it end.

        What a site has now goes on until the token is used: only then its older credentials end.
        """
        token, now = make_token(invitation), self._database.now()
        with self._database.write() as connection:
            found = _find(connection, invitation.site)
            if found is None:
                connection.execute(insert(sites).values(name=invitation.site, status="invited"))
            elif not found.active:
                _set(connection, invitation.site, status="invited")
            connection.execute(delete(tokens).where(tokens.c.site == invitation.site))
            connection.execute(
                insert(tokens).values(
                    id=token.id, site=invitation.site, secret_sha256=hash_secret(token.secret), expires_at=now + life_s
                )
            )
        return token

    def void_invitations(self) -> None:
        """End all invitations: what was restored does not know which of them were used since."""
        with self._database.write() as connection:
            connection.execute(delete(tokens))

    def enrol(self, token_id: str, secret: str, site: NewSite, issue: Callable[[str], tuple[Issued, Any]]) -> Any:
        """Use a token up: take the site's keys in, end its older credentials, and note the new one.

        Args:
            token_id: The token's identifier.
            secret: The token's secret.
            site: What the site brings.
            issue: Makes a credential for a site's name; what it returns beside it is returned.

        Raises:
            RefusedError: If there is no such token, it expired, or it was used (the reason is for our log,
                never for the one who asks).
        """
        now = self._database.now()
        with self._database.write() as connection:
            name = _use_token(connection, token_id, hash_secret(secret), site.claim, now)
            issued, result = issue(name)
            _revoke_credentials(connection, name, now)
            connection.execute(insert(credentials).values(serial=issued.serial, site=name, not_after=issued.not_after))
            _set(
                connection, name, status="enrolled", signing_key=site.signing_key, sealing_key=site.sealing_key,
                enrolled_at=now, serial=issued.serial, not_after=issued.not_after, doctor=None, doctor_at=None,
            )  # fmt: skip
        return result

    def renewed(self, name: str, issued: Issued) -> None:
        """Note a site's new credential; the one before it stays valid until its own end.

        Raises:
            RefusedError: If the site is not active any more.
        """
        with self._database.write() as connection:
            _set_active(connection, name, serial=issued.serial, not_after=issued.not_after)
            connection.execute(insert(credentials).values(serial=issued.serial, site=name, not_after=issued.not_after))

    def revoke(self, name: str) -> None:
        """Shut a site out at once: its credentials, tokens, grants and slots end."""
        self._end(name, "revoked")

    def leave(self, name: str) -> None:
        """Let a site go; as `revoke`, but nobody did anything wrong."""
        self._end(name, "left")

    def list(self) -> list[Site]:
        """Return all sites, in the order of their names."""
        with self._database.read() as connection:
            return [_site(row) for row in connection.execute(_ALL.order_by(sites.c.name))]

    def get(self, name: str) -> Site | None:
        """Return a site, or None."""
        with self._database.read() as connection:
            return _find(connection, name)

    def find_active(self, name: str, serial: str) -> Site | None:
        """Return the site a credential stands for, unless the site or the credential is not to be let in."""
        with self._database.read() as connection:
            site = _find(connection, name)
            revoked = select(credentials.c.revoked_at).where(credentials.c.serial == serial)
            if site is None or not site.active or connection.execute(revoked).scalar() is not None:
                return None
            return site

    def heartbeat(self, name: str, version: str, activity: Mapping[str, Any], protocol: int | None = None) -> None:
        """Note that a site is alive, what it is doing, and what it runs and speaks; what it has claimed is renewed."""
        with self._database.write() as connection:
            _set_active(
                connection, name, version=version, activity=json.dumps(dict(activity)), last_seen=self._database.now()
            )
            renew(connection, name, self._database.now())
            if protocol is not None:
                _set_spoken(connection, name, protocol)

    def examined(self, name: str, report: Mapping[str, Any], *, passed: bool) -> None:
        """Note a site's report about itself; passed, it is ready from now on, else it is not."""
        now, status = self._database.now(), "ready" if passed else "enrolled"
        with self._database.write() as connection:
            _set_active(connection, name, status=status, doctor=json.dumps(dict(report)), doctor_at=now, last_seen=now)

    def use_nonce(self, nonce: str, expires_at: float) -> bool:
        """Use a nonce up, and return whether it was fresh. Of two processes, exactly one gets True."""
        return self._database.insert_once(nonces, nonce=nonce, expires_at=expires_at)

    def sweep(self) -> None:
        """Forget nonces, tokens and credentials that have expired."""
        now = self._database.now()
        with self._database.write() as connection:
            connection.execute(delete(nonces).where(nonces.c.expires_at < now))
            connection.execute(delete(tokens).where(tokens.c.expires_at < now))
            connection.execute(delete(credentials).where(credentials.c.not_after < now))

    def _end(self, name: str, status: Status) -> None:
        """End everything a site may do."""
        with self._database.write() as connection:
            if not _set(connection, name, status=status):
                raise RefusedError(f"there is no site {name!r} in this federation: see `wardround status`")
            _revoke_credentials(connection, name, self._database.now())
            connection.execute(delete(tokens).where(tokens.c.site == name))
            connection.execute(delete(grants).where(grants.c.site == name))
            connection.execute(update(slot_grants).where(slot_grants.c.site == name).values(open=False))


def _use_token(connection: Connection, token_id: str, secret: str, claim: str, now: float) -> str:
    """Mark a token as used and return its site; the same request again, before the token's end, is let through."""
    fits = (tokens.c.id == token_id) & (tokens.c.secret_sha256 == secret) & (tokens.c.expires_at > now)
    free = tokens.c.used_at.is_(None) | (tokens.c.used_for == claim)
    used = connection.execute(update(tokens).where(fits & free).values(used_at=now, used_for=claim))
    if used.rowcount != 1:
        raise RefusedError("no such token, or it expired or was used")
    return str(connection.execute(select(tokens.c.site).where(tokens.c.id == token_id)).scalar_one())


def _revoke_credentials(connection: Connection, name: str, now: float) -> None:
    """End all credentials of a site."""
    of_site = (credentials.c.site == name) & credentials.c.revoked_at.is_(None)
    connection.execute(update(credentials).where(of_site).values(revoked_at=now))


def _set(connection: Connection, name: str, **values: Any) -> bool:
    """Change a site, and return whether it is there."""
    return connection.execute(update(sites).where(sites.c.name == name).values(values)).rowcount == 1


def _set_active(connection: Connection, name: str, **values: Any) -> None:
    """Change a site that may still come in: it may have been shut out since it was let in."""
    active = (sites.c.name == name) & sites.c.status.in_(ACTIVE)
    if connection.execute(update(sites).where(active).values(values)).rowcount != 1:
        raise RefusedError(f"{name} was shut out in the meantime")


def _set_spoken(connection: Connection, name: str, protocol: int) -> None:
    """Note what a site speaks; its row of the sites is locked by the caller's change."""
    if not connection.execute(update(spoken).where(spoken.c.site == name).values(protocol=protocol)).rowcount:
        connection.execute(insert(spoken).values(site=name, protocol=protocol))


def _find(connection: Connection, name: str) -> Site | None:
    """Return a site, or None."""
    row = connection.execute(_ALL.where(sites.c.name == name)).one_or_none()
    return None if row is None else _site(row)


def _site(row: Row[Any]) -> Site:
    """Return a site from its row."""
    fields = dict(row._mapping)
    for name in ("activity", "doctor"):
        fields[name] = None if fields[name] is None else json.loads(fields[name])
    return Site(**fields)
