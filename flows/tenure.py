"""The time for which this process acts for the coordinator: a lease that is taken, renewed beside the work, and lost.

While the gateway's database is away nobody can take over, unless it is away from here only. So a process goes on as
long as its last renewal is good, and then waits with whatever it would write until the database answers: then it
holds the lease still, or steps aside.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from sqlalchemy import Connection

from components.errors import LeaseLostError, ServiceError
from components.gateway.leases import LEASE_S, Lease, Leases, lost

RENEW_EVERY_S = 4.0
SURE_S = 0.75 * LEASE_S  # from before a renewal was asked for: clocks need only run alike by a quarter
LOOK_EVERY_S = 0.5
log = logging.getLogger("wardround.coordinator")


class Tenure:
    """A lease this process holds; made by `Tenure.begin`.

    Args:
        leases: Where it is kept.
        lease: The lease.
        confirmed: When its last renewal was asked for (`_clock`).
        after: Who held it while this process waited, and ended in order; None if nobody did.

    Attributes:
        after: As given.
    """

    def __init__(self, leases: Leases, lease: Lease, confirmed: float, after: Lease | None = None) -> None:
        self.after = after
        self._leases, self._lease, self._confirmed = leases, lease, confirmed
        self._lost: LeaseLostError | None = None
        self._told: Callable[[], object] | None = None
        self._closed, self._changed = threading.Event(), threading.Condition()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")
        self._thread.start()

    @classmethod
    def begin(
        cls, leases: Leases, name: str, lock: Path, *, say: Callable[[str], None], check: Callable[[], None]
    ) -> Self:
        """Take a lease; if another process holds it, wait until that was not heard of for `LEASE_S`.

        Args:
            leases: Where it is kept.
            name: What it is for.
            lock: A file whose lock this process holds: who held the lease with it before is gone.
            say: Told for whom is waited; an empty text once nobody is.
            check: Called now and then; raises what ends the waiting.

        Raises:
            ServiceError: If the database cannot be reached.
        """
        place, said, holder = _place(lock), "", f"{socket.gethostname()} (process {os.getpid()})"
        while True:
            asked = _clock()
            lease, before = leases.take(name, place, holder)
            if lease is not None:
                if said:
                    say("")
                return cls(leases, lease, asked, before if said and before and before.given_back else None)
            assert before is not None  # who holds it
            text = f"{before.holder} drives {name}: taking over once it was not heard of for {LEASE_S:g} s"
            if text != said:
                say(text)
            said = text
            check()
            time.sleep(min(LOOK_EVERY_S, before.left_s))

    def require_own(self) -> None:
        """Return if the journal of this process is the one that counts.

        Raises:
            ServiceError: If another process has driven it elsewhere, and ended in order, while this one waited.
        """
        if self.after is not None:
            what = self._lease.name.partition(" ")[2]
            raise ServiceError(
                f"{self.after.holder} has driven {what} meanwhile and ended in order: what it did is in the "
                "journal there. Go on there, or with that journal here (docs/operations.md)"
            )

    @property
    def lost(self) -> bool:
        """Whether another process has taken over, as far as is known here."""
        return self._lost is not None

    def tell(self, told: Callable[[], object] | None) -> None:
        """Have it told, from another thread, when the lease is lost."""
        self._told = told
        if self._lost is not None and told is not None:
            told()

    def require(self) -> None:
        """Return if this process may act; where that is not sure, wait until the database says so.

        Raises:
            LeaseLostError: If another has taken over.
        """
        with self._changed:
            while self._lost is None and not self._sure() and not self._closed.is_set():
                self._now.set()
                self._changed.wait(LOOK_EVERY_S)
        if self._lost is not None:
            raise self._lost

    def guard(self, connection: Connection) -> None:
        """Refuse a transaction of the gateway's tables if another has taken over; see `Leases.guard`.

        Raises:
            LeaseLostError: Then.
        """
        self._leases.guard(connection, self._lease)

    def close(self) -> None:
        """Give the lease back, if the database is there; nothing is required any more."""
        self._closed.set()
        self._now.set()
        self._thread.join(LEASE_S)  # it may be waiting for a database that is away
        if self._lost is None:
            try:
                self._leases.give_back(self._lease)
            except ServiceError as error:
                log.warning("the lease of %s runs out by itself: %s", self._lease.name, error)

    def _sure(self) -> bool:
        return _clock() - self._confirmed < SURE_S

    def _keep(self) -> None:
        """Renew until the end."""
        while not self._closed.is_set() and self._lost is None:
            self._now.wait(RENEW_EVERY_S)
            self._now.clear()
            if not self._closed.is_set():
                self._renew()

    def _renew(self) -> None:
        asked, gone = _clock(), None
        try:
            if not self._leases.renew(self._lease):
                gone = LeaseLostError(lost(self._lease, self._leases.find(self._lease.name)))
        except ServiceError as error:
            if not self._sure():
                log.warning("whether this process still drives %s is not known: %s", self._lease.name, error)
                self._closed.wait(LOOK_EVERY_S)
            return
        with self._changed:
            self._lost = gone
            self._confirmed = asked if gone is None else self._confirmed
            self._changed.notify_all()
        if gone is not None and self._told is not None:
            self._told()


def _clock() -> float:
    """Return seconds that go on while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _place(lock: Path) -> str:
    """Return what tells a file from every other, on this machine since it was started and elsewhere."""
    found = lock.stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return hashlib.sha256(f"{boot} {found.st_dev} {found.st_ino}".encode()).hexdigest()[:32]
