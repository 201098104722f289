"""Who keeps the gateway's list of work: changes are made in their order, many in one transaction, whatever it takes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from components.errors import LeaseLostError, ServiceError, WardRoundError
from components.gateway.grants import Change, Grants

AGAIN_S = 1.0
log = logging.getLogger("wardround.coordinator")


class Clerk:
    """Makes changes to the list in a thread of its own; nobody waits for a database.

    Args:
        grants: The list.
        guard: Made first in each transaction; refuses it where another process acts for the coordinator now.

    Guarantees:
        A change is made after all that were asked for before it. While the database is away they wait. Once another
        process has taken over, none is made any more.
    """

    def __init__(self, grants: Grants, guard: Change | None = None) -> None:
        self._grants, self._guard = grants, [guard] if guard is not None else []
        self._asked: deque[tuple[Change, Callable[[], None] | None]] = deque()
        self._news, self._ending = threading.Event(), False
        self._thread = threading.Thread(target=self._work, daemon=True, name="clerk")
        self._thread.start()

    def do(self, change: Change, then: Callable[[], None] | None = None) -> None:
        """Ask for a change; returns at once.

        Args:
            change: The change.
            then: What is done once it was made, and not before.
        """
        self._asked.append((change, then))
        self._news.set()

    def close(self) -> None:
        """Make what was asked for, if the database is there, and end."""
        self._ending = True
        self._news.set()
        self._thread.join()

    def _work(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            ending = self._ending
            if not self._empty() or ending:
                return

    def _empty(self) -> bool:
        """Make all changes that were asked for; return whether to go on."""
        while self._asked:
            batch = list(self._asked)
            try:
                self._grants.apply([*self._guard, *(change for change, _ in batch)])
            except LeaseLostError:
                return False
            except ServiceError as error:
                log.warning("the gateway's list of work waits: %s", error)
                if self._ending:
                    return False
                threading.Event().wait(AGAIN_S)
                continue
            for _, then in batch:
                self._asked.popleft()
                if then is not None:
                    _carry_out(then)
        return True


def _carry_out(then: Callable[[], None]) -> None:
    """Do what follows a change; what goes wrong with it must not keep the list from being kept."""
    try:
        then()
    except WardRoundError as error:
        log.warning("%s", error)
