"""Claims: which of the asked work a site has taken up, and whether whoever took it is still there.

A claim is a lease on one slot. The gateway writes it when it hands the request out, before the site can begin, and
renews it with every sign of life; a site that hangs up keeps it for `HUNG_UP_S` more. So a worker that dies
between taking its work and beginning it is told from one that has not been asked yet, within seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, insert, select, update

from components.gateway.database import Database, claims
from components.gateway.records import SlotKey
from components.gateway.slot_rows import of_slot, slot_in

CLAIM_S = 16.0  # three signs of life that did not come
HUNG_UP_S = 8.0  # after its connection broke: one that did not come, and the way here

ClaimState = Literal["open", "held", "lapsed"]  # nobody has taken it up; somebody is there; nobody is heard of


@dataclass(frozen=True)
class Claim:
    """A claim as it stands.

    Attributes:
        renewed_at: When its site was last heard of, by the gateway's clock.
        life_s: For how long that is good.
    """

    renewed_at: float
    life_s: float


class Claims:
    """The claims of one federation.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, site: str, slots: Sequence[SlotKey]) -> None:
        """Note that a site has taken work up; what it took up before is renewed."""

        def change(connection: Connection) -> None:
            renew(connection, site, self._database.now())
            for slot in slots:
                if connection.execute(select(claims.c.site).where(of_slot(claims, slot))).first() is None:
                    values = {"renewed_at": self._database.now(), "life_s": CLAIM_S}
                    connection.execute(insert(claims).values(**slot.model_dump(), **values))

        self._database.change(change)

    def hung_up(self, site: str) -> None:
        """Note that a site's connection broke."""
        with self._database.write() as connection:
            renew(connection, site, self._database.now(), life_s=HUNG_UP_S)

    def all(self) -> dict[SlotKey, Claim]:
        """Return the claims on all open slots."""
        with self._database.read() as connection:
            return {slot_in(row): Claim(row.renewed_at, row.life_s) for row in connection.execute(select(claims))}


def renew(connection: Connection, site: str, now: float, *, life_s: float = CLAIM_S) -> None:
    """Renew all claims of a site."""
    connection.execute(update(claims).where(claims.c.site == site).values(renewed_at=now, life_s=life_s))
