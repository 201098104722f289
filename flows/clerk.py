"""Who keeps the gateway's list of work: changes are made in their order, many in one transaction, whatever it takes."""

from __future__ import annotations

import logging
import threading
from collections import deque

from components.errors import ServiceError
from components.gateway.grants import Change, Grants

AGAIN_S = 1.0
log = logging.getLogger("wardround.coordinator")


class Clerk:
    """Makes changes to the list in a thread of its own; nobody waits for a database.

    Args:
        grants: The list.

    Guarantees:
        A change is made after all that were asked for before it. While the database is away they wait.
    """

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._asked: deque[Change] = deque()
        self._news, self._ending = threading.Event(), False
        self._thread = threading.Thread(target=self._work, daemon=True, name="clerk")
        self._thread.start()

    def do(self, change: Change) -> None:
        """Ask for a change; returns at once."""
        self._asked.append(change)
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
                self._grants.apply(batch)
            except ServiceError as error:
                log.warning("the gateway's list of work waits: %s", error)
                if self._ending:
                    return False
                threading.Event().wait(AGAIN_S)
                continue
            for _ in batch:
                self._asked.popleft()
        return True
