"""What the coordinator opens to a site: objects it may read, slots it may fill, and bells that wake it.

A slot is opened together with the request that asks for what goes into it: until an answer lies there or the slot
is closed, the request is the site's work, however often the site or the gateway starts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection, Table, and_, delete, insert, select, update

from components.gateway.database import Database, bells, claims, grants, slot_grants
from components.gateway.records import SlotKey, WorkItem
from components.gateway.slot_rows import of_slot, slot_in

Change = Callable[[Connection], None]


class Grants:
    """The grants of one federation.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def allow(self, digest: str, names: Iterable[str]) -> None:
        """Let sites read an object; those that may already are not disturbed."""
        for name in sorted(names):
            self._database.insert_once(grants, site=name, digest=digest)

    def forbid(self, digest: str) -> None:
        """Let nobody read an object any more."""
        self.apply([self.forbidding(digest)])

    def forbidding(self, digest: str) -> Change:
        """Return the change that lets nobody read an object any more."""

        def change(connection: Connection) -> None:
            connection.execute(delete(grants).where(grants.c.digest == digest))

        return change

    def may_read(self, name: str, digest: str) -> bool:
        """Return whether a site may read an object."""
        with self._database.read() as connection:
            wanted = select(grants.c.site).where((grants.c.site == name) & (grants.c.digest == digest))
            return connection.execute(wanted).scalar() is not None

    def open_slot(self, slot: SlotKey, *, max_bytes: int, request: str | None = None, reads: str | None = None) -> None:
        """Let a site fill its slot, and ask it to; see `opening`."""
        self.apply([self.opening(slot, max_bytes=max_bytes, request=request, reads=reads)])

    def opening(self, slot: SlotKey, *, max_bytes: int, request: str | None = None, reads: str | None = None) -> Change:
        """Return the change that lets a site fill its slot, and asks it to.

        Args:
            slot: The slot.
            max_bytes: Largest payload that is taken.
            request: What asks for the payload, as JSON; the site finds it in its work, and is woken.
            reads: Digest of an object that the site may read for it.
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be 1 or more, given {max_bytes}")

        def change(connection: Connection) -> None:
            values = {"max_bytes": max_bytes, "open": True, "opened_at": self._database.now(), "request": request}
            if not connection.execute(update(slot_grants).where(of_slot(slot_grants, slot)).values(values)).rowcount:
                connection.execute(insert(slot_grants).values(**slot.model_dump(), **values))
            if reads is not None:
                _put(connection, grants, site=slot.site, digest=reads)
            if request is not None:
                _ring(connection, slot.site)

        return change

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes in their order, in one transaction."""

        def together(connection: Connection) -> None:
            for change in changes:
                change(connection)

        self._database.change(together)

    def work(self, site: str) -> list[WorkItem]:
        """Return what a site is asked for, in the order it was asked; of answered slots, too, until they are closed."""
        wanted = (
            select(slot_grants)
            .where((slot_grants.c.site == site) & slot_grants.c.open & slot_grants.c.request.is_not(None))
            .order_by(slot_grants.c.opened_at)
        )
        with self._database.read() as connection:
            return [WorkItem(slot=slot_in(row), request=row.request) for row in connection.execute(wanted)]

    def close_slot(self, slot: SlotKey) -> None:
        """Take nothing more into a slot, and wake its site; see `closing`."""
        self.apply([self.closing(slot)])

    def closing(self, slot: SlotKey, *, wake: bool = True) -> Change:
        """Return the change that takes nothing more into a slot.

        Args:
            slot: The slot.
            wake: Whether its site is woken, to stop what it does for it; not where it has delivered.
        """

        def change(connection: Connection) -> None:
            connection.execute(update(slot_grants).where(of_slot(slot_grants, slot)).values(open=False, request=None))
            connection.execute(delete(claims).where(of_slot(claims, slot)))
            if wake:
                _ring(connection, slot.site)

        return change

    def close_slots(self, training: str, round_number: int, attempt: int) -> None:
        """Take nothing more for an attempt at a round, from anybody."""
        of_attempt = (
            (slot_grants.c.training == training)
            & (slot_grants.c.round == round_number)
            & (slot_grants.c.attempt == attempt)
        )
        taken = (claims.c.training == training) & (claims.c.round == round_number) & (claims.c.attempt == attempt)
        with self._database.write() as connection:
            connection.execute(update(slot_grants).where(of_attempt).values(open=False, request=None))
            connection.execute(delete(claims).where(taken))

    def close_training(self, training: str) -> list[SlotKey]:
        """Take nothing more for a training and wake the sites that are at work for it; return what was open."""
        of_training = (slot_grants.c.training == training) & slot_grants.c.open

        def change(connection: Connection) -> list[SlotKey]:
            slots = [slot_in(row) for row in connection.execute(select(slot_grants).where(of_training))]
            connection.execute(update(slot_grants).where(of_training).values(open=False, request=None))
            connection.execute(delete(claims).where(claims.c.training == training))
            for site in sorted({slot.site for slot in slots}):
                _ring(connection, site)
            return slots

        return self._database.change(change)

    def open_trainings(self) -> list[str]:
        """Return the trainings that something is asked for."""
        with self._database.read() as connection:
            asked = select(slot_grants.c.training).where(slot_grants.c.open).distinct()
            return list(connection.execute(asked).scalars())

    def open_bytes(self, slot: SlotKey) -> int | None:
        """Return the largest payload an open slot takes, in bytes; None if it is not open, or is not at all."""
        with self._database.read() as connection:
            wanted = select(slot_grants.c.max_bytes).where(of_slot(slot_grants, slot) & slot_grants.c.open)
            found = connection.execute(wanted).scalar()
            return None if found is None else int(found)

    def rung(self) -> dict[str, int]:
        """Return how often each site's bell was rung so far."""
        with self._database.read() as connection:
            return {row.site: row.rung for row in connection.execute(select(bells))}


def _ring(connection: Connection, site: str) -> None:
    """Count a site's bell up."""
    if not connection.execute(update(bells).where(bells.c.site == site).values(rung=bells.c.rung + 1)).rowcount:
        connection.execute(insert(bells).values(site=site, rung=1))


def _put(connection: Connection, table: Table, **values: str) -> None:
    """Insert a row of nothing but keys, unless it is there."""
    condition = and_(*(table.c[name] == value for name, value in values.items()))
    if connection.execute(select(table).where(condition)).first() is None:
        connection.execute(insert(table).values(values))
