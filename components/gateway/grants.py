"""What the coordinator opens to a site: objects it may read, slots it may fill, and a bell that wakes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import ColumnElement, delete, select, update

from components.gateway.database import Database, bells, grants, slot_grants
from components.gateway.records import SlotKey


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
        with self._database.write() as connection:
            connection.execute(delete(grants).where(grants.c.digest == digest))

    def may_read(self, name: str, digest: str) -> bool:
        """Return whether a site may read an object."""
        with self._database.read() as connection:
            wanted = select(grants.c.site).where((grants.c.site == name) & (grants.c.digest == digest))
            return connection.execute(wanted).scalar() is not None

    def open_slot(self, slot: SlotKey, *, max_bytes: int) -> None:
        """Let a site fill its slot with a payload of at most so many bytes."""
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be 1 or more, given {max_bytes}")
        if not self._database.insert_once(slot_grants, **slot.model_dump(), max_bytes=max_bytes, open=True):
            with self._database.write() as connection:
                connection.execute(update(slot_grants).where(_is(slot)).values(max_bytes=max_bytes, open=True))

    def close_slot(self, slot: SlotKey) -> None:
        """Take nothing more into a slot."""
        with self._database.write() as connection:
            connection.execute(update(slot_grants).where(_is(slot)).values(open=False))

    def close_slots(self, training: str, round_number: int, attempt: int) -> None:
        """Take nothing more for an attempt at a round, from anybody."""
        of_attempt = (
            (slot_grants.c.training == training)
            & (slot_grants.c.round == round_number)
            & (slot_grants.c.attempt == attempt)
        )
        with self._database.write() as connection:
            connection.execute(update(slot_grants).where(of_attempt).values(open=False))

    def forget_trainings(self, trainings: Collection[str]) -> None:
        """Forget the slots of trainings that have ended."""
        with self._database.write() as connection:
            connection.execute(delete(slot_grants).where(slot_grants.c.training.in_(list(trainings))))

    def open_bytes(self, slot: SlotKey) -> int | None:
        """Return the largest payload an open slot takes, in bytes; None if it is not open, or is not at all."""
        with self._database.read() as connection:
            wanted = select(slot_grants.c.max_bytes).where(_is(slot) & slot_grants.c.open)
            found = connection.execute(wanted).scalar()
            return None if found is None else int(found)

    def ring(self, name: str) -> None:
        """Wake a site's worker, if it is waiting at the gateway: there is work for it."""
        with self._database.write() as connection:
            more = update(bells).where(bells.c.site == name).values(rung=bells.c.rung + 1)
            if connection.execute(more).rowcount:
                return
        if not self._database.insert_once(bells, site=name, rung=1):
            self.ring(name)

    def rung(self) -> dict[str, int]:
        """Return how often each site was woken so far."""
        with self._database.read() as connection:
            return {str(name): int(count) for name, count in connection.execute(select(bells.c.site, bells.c.rung))}


def _is(slot: SlotKey) -> ColumnElement[bool]:
    """Return the condition that finds a slot's grant."""
    return (
        (slot_grants.c.training == slot.training)
        & (slot_grants.c.round == slot.round)
        & (slot_grants.c.attempt == slot.attempt)
        & (slot_grants.c.kind == slot.kind)
        & (slot_grants.c.site == slot.site)
    )
