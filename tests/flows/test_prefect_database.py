"""The embedded server's SQLite: a transaction that reads first and writes later never fails for a neighbour."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration, BaseDatabaseConfiguration

from flows.prefect_database import WritingTransactions


async def read_then_write(database: BaseDatabaseConfiguration, between: Callable[[], Awaitable[None]]) -> None:
    """Count the rows, let something happen, add a row."""
    async with await database.session(await database.engine()) as session, database.begin_transaction(session):
        await session.execute(sa.text("SELECT count(*) FROM item"))
        await between()
        await session.execute(sa.text("INSERT INTO item VALUES (1)"))


async def nothing() -> None:
    return


async def two_at_once(database: BaseDatabaseConfiguration) -> int:
    """Rows after a second transaction tried to come between the first one's reading and writing."""
    engine = await database.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE item (number INTEGER)"))
    second: list[asyncio.Task[None]] = []

    async def second_comes_between() -> None:
        second.append(asyncio.create_task(read_then_write(database, nothing)))
        await asyncio.wait(second, timeout=0.3)  # ends sooner if it is let through

    await read_then_write(database, second_comes_between)
    await asyncio.gather(*second)
    async with engine.begin() as connection:
        return int((await connection.execute(sa.text("SELECT count(*) FROM item"))).scalar_one())


def test_transactions_wait_for_each_other(tmp_path: Path) -> None:
    database = WritingTransactions(connection_url=f"sqlite+aiosqlite:///{tmp_path}/items.db")
    assert asyncio.run(two_at_once(database)) == 2


def test_prefects_own_transactions_do_not(tmp_path: Path) -> None:
    """Why `WritingTransactions` exists; when this fails, Prefect has mended it and ours can go."""
    database = AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{tmp_path}/items.db")
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        asyncio.run(two_at_once(database))


async def synchronous(database: BaseDatabaseConfiguration) -> int:
    engine = await database.engine()
    async with engine.begin() as connection:
        return int((await connection.execute(sa.text("PRAGMA synchronous"))).scalar_one())


def test_commits_are_on_disk_when_acknowledged(tmp_path: Path) -> None:
    database = WritingTransactions(connection_url=f"sqlite+aiosqlite:///{tmp_path}/items.db")
    assert asyncio.run(synchronous(database)) == 2  # FULL
