"""How the embedded Prefect server uses SQLite; runs inside the server's process only.

As a program (``python -m flows.prefect_database``) it makes or migrates the database where
``PREFECT_SERVER_DATABASE_CONNECTION_URL`` says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from prefect.plugins import load_prefect_collections
from prefect.server.database import dependencies, provide_database_interface
from prefect.server.database.configurations import ENGINES, AioSqliteConfiguration
from prefect.server.models.block_registration import run_block_auto_registration
from prefect.server.utilities.messaging.memory import Topic
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

WRITE_WITHIN_S = 5.0
BUSY_MS = 5000  # of what takes no turn: then it is refused, and asked again
TURN_WITHIN_S = 30.0


class _Turns:
    """Whose turn it is to write, of one event loop's tasks."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None

    def has_current(self) -> bool:
        """Whether it is the running task's."""
        return self._holder is asyncio.current_task()

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[None, None]:
        """Wait for a turn.

        Raises:
            OperationalError: If none comes; Prefect answers that it is to be asked again.
        """
        try:
            await asyncio.wait_for(self._lock.acquire(), TURN_WITHIN_S)
        except TimeoutError as error:
            raise OperationalError("BEGIN IMMEDIATE", None, Exception("database is locked")) from error
        self._holder = asyncio.current_task()
        try:
            yield
        finally:
            self._holder = None
            self._lock.release()


class WritingTransactions(AioSqliteConfiguration):
    """Prefect's SQLite with transactions that begin as writers, take turns, and commits that survive a power cut.

    They take turns here and not in SQLite: while one connection waits there (``busy_timeout``, a minute), Python may
    collect a statement of that same connection in another thread, which then waits for the connection with the
    interpreter's lock in hand. Nothing of the process moves until the minute is over.
    """

    _turns: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns]] = WeakKeyDictionary()

    @asynccontextmanager
    async def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        """Begin with ``BEGIN IMMEDIATE``, whatever the caller meant to do; one inside another, as Prefect has it."""
        turns = self._turns.setdefault(asyncio.get_running_loop(), _Turns())
        if turns.has_current():
            async with super().begin_transaction(session, with_for_update) as transaction:
                yield transaction
        else:
            async with turns.take(), super().begin_transaction(session, with_for_update=True) as transaction:
                yield transaction

    def setup_sqlite(self, conn: Any, record: Any) -> None:
        """Prefect's own settings of a connection, then ours."""
        super().setup_sqlite(conn, record)
        cursor = conn.cursor()
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        cursor.close()


def use_writing_transactions() -> None:
    """Give Prefect our database configuration; must run before its application is made."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    dependencies.MODELS_DEPENDENCIES["database_config"] = WritingTransactions(connection_url=url)


async def create_database() -> None:
    """Migrate a database to this version and register the block types that Prefect and its collections bring."""
    load_prefect_collections()
    database = provide_database_interface()
    await database.create_db()
    async with await database.session() as session:
        await run_block_auto_registration(session=session)


async def written() -> None:
    """Wait until the events received so far are in the database, at most `WRITE_WITHIN_S` seconds.

    Prefect's services drop what is still queued when they stop, and print tracebacks for what they were
    writing at that moment.
    """
    deadline = time.monotonic() + WRITE_WITHIN_S
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:
        quiet = 0 if _busy() else quiet + 1
        await asyncio.sleep(0.02)


def _busy() -> bool:
    """Whether a subscription has unread messages or a connection is in use."""
    subscriptions = (subscription for topic in Topic._topics.values() for subscription in topic._subscriptions)
    unread = any(part._queue.qsize() + part._retry.qsize() for part in subscriptions)
    return unread or any(engine.pool.checkedout() for engine in ENGINES.values())  # type: ignore[attr-defined]


if __name__ == "__main__":
    asyncio.run(create_database())
