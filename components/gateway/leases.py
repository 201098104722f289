"""Leases: which one of several processes, on whatever machines, may act for the coordinator, by the database's clock.

A lease is good for `LEASE_S` from its last renewal; then another may take it, with the next *epoch*. What changes the
gateway's tables in the name of a lease looks in the same transaction whether its epoch is still the newest
(`Leases.guard`): so a process that was stopped, or cut off, and comes back changes nothing, whatever it believes.

Guarantees: of two processes at most one holds a lease by the database's clock; epochs only grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, text, update

from components.errors import LeaseLostError
from components.gateway.database import Database, leases

LEASE_S = 20.0  # without a renewal for so long, another takes over


@dataclass(frozen=True)
class Lease:
    """A lease as it stands.

    Attributes:
        name: What it is for.
        place: Which journal, on which machine, its holder drives; one place has one process at a time.
        holder: Who holds it, for people.
        epoch: How often it was taken so far.
        left_s: Seconds until another may take it.
        given_back: Whether its holder ended in order.
    """

    name: str
    place: str
    holder: str
    epoch: int
    left_s: float
    given_back: bool = False


class Leases:
    """The leases of one federation.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, place: str, holder: str) -> tuple[Lease | None, Lease | None]:
        """Take a lease if nobody else holds it, or who held it was at the same place and so is gone.

        Args:
            name: What it is for.
            place: Where the taker is; the caller holds the lock of that place.
            holder: Who takes it, for people.

        Returns:
            The lease; None if it was not taken. And the lease as it stood before; None if there was none.
        """

        def change(connection: Connection) -> tuple[Lease | None, Lease | None]:
            row = connection.execute(select(leases).where(leases.c.name == name).with_for_update()).one_or_none()
            now = _now(connection)
            values = {"place": place, "holder": holder, "renewed_at": now, "life_s": LEASE_S}
            if row is None:
                connection.execute(insert(leases).values(name=name, epoch=1, **values))
                return Lease(name, place, holder, 1, LEASE_S), None
            found = _lease(row, now)
            if found.left_s > 0 and found.place != place:
                return None, found
            epoch = found.epoch + 1
            connection.execute(update(leases).where(leases.c.name == name).values(epoch=epoch, **values))
            return Lease(name, place, holder, epoch, LEASE_S), found

        return self._database.change(change)

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False if it was taken by another."""
        with self._database.write() as connection:
            values = {"renewed_at": _now(connection), "life_s": LEASE_S}
            return connection.execute(update(leases).where(_is(lease)).values(values)).rowcount == 1

    def give_back(self, lease: Lease) -> None:
        """Let another take the lease at once; nothing if one has."""
        with self._database.write() as connection:
            connection.execute(update(leases).where(_is(lease)).values(life_s=0.0))

    def find(self, name: str) -> Lease | None:
        """Return a lease as it stands; None if it was never taken."""
        with self._database.read() as connection:
            row = connection.execute(select(leases).where(leases.c.name == name)).one_or_none()
            return None if row is None else _lease(row, _now(connection))

    def guard(self, connection: Connection, lease: Lease) -> None:
        """Refuse to go on with a transaction if another has taken the lease; held until the transaction's end.

        Raises:
            LeaseLostError: Then.
        """
        held = select(leases).where(leases.c.name == lease.name).with_for_update(read=True)
        row = connection.execute(held).one_or_none()
        if row is None or row.epoch != lease.epoch:
            raise LeaseLostError(lost(lease, None if row is None else _lease(row, 0.0)))


def lost(mine: Lease, now: Lease | None) -> str:
    """Say that a lease is another's now."""
    who = f"{now.holder} (epoch {now.epoch})" if now is not None else "another"
    return (
        f"stepped aside: {who} drives {mine.name} since this process (epoch {mine.epoch}) was not heard of for "
        f"{LEASE_S:g} s. Nothing was written here since; the journal there is the one that counts"
    )


def _now(connection: Connection) -> float:
    """Return the database's own clock: seconds since 1970, the same for all who ask it."""
    sqlite = connection.dialect.name == "sqlite"
    clock = "(julianday('now') - 2440587.5) * 86400.0" if sqlite else "extract(epoch from clock_timestamp())"
    return float(connection.execute(text(f"SELECT {clock}")).scalar_one())


def _lease(row: Row[Any], now: float) -> Lease:
    """Return a lease from its row."""
    left_s = max(row.renewed_at + row.life_s - now, 0.0) if row.life_s else 0.0
    return Lease(row.name, row.place, row.holder, row.epoch, left_s, not row.life_s)


def _is(lease: Lease) -> ColumnElement[bool]:
    """Return the condition that finds a lease, as long as nobody else has taken it."""
    return (leases.c.name == lease.name) & (leases.c.epoch == lease.epoch)
