"""The embedded server's SQLite: a transaction that reads first and writes later never fails for a neighbour."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration, BaseDatabaseConfiguration
from prefect.server.utilities.messaging.memory import MemoryMessage, Topic

from flows import prefect_database
from flows.prefect_database import WritingTransactions, written


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


async def begin(database: BaseDatabaseConfiguration) -> int:
    """Begin one transaction, another within it, and a third in a task of its own; return the rows written."""
    engine = await database.engine()
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE item (number INTEGER)"))
    async with await database.session(engine) as session, database.begin_transaction(session):
        third = asyncio.create_task(read_then_write(database, nothing))
        async with await database.session(engine) as inner, database.begin_transaction(inner):
            await inner.execute(sa.text("SELECT count(*) FROM item"))
        await asyncio.wait([third], timeout=0.2)
        assert engine.pool.checkedout() <= 1  # type: ignore[attr-defined]
        await session.execute(sa.text("INSERT INTO item VALUES (1)"))
    await third
    async with engine.begin() as connection:
        return int((await connection.execute(sa.text("SELECT count(*) FROM item"))).scalar_one())


def test_who_waits_for_a_turn_holds_no_connection_and_who_has_it_may_begin_again(tmp_path: Path) -> None:
    database = WritingTransactions(connection_url=f"sqlite+aiosqlite:///{tmp_path}/items.db")
    assert asyncio.run(begin(database)) == 2


def test_a_turn_that_does_not_come_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_database, "TURN_WITHIN_S", 0.1)
    database = WritingTransactions(connection_url=f"sqlite+aiosqlite:///{tmp_path}/items.db")
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        asyncio.run(two_at_once(database))


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


async def still_waiting(waiting: asyncio.Task[None]) -> bool:
    """Whether it is, after many times the pause that it makes between two looks."""
    await asyncio.wait([waiting], timeout=0.3)
    return not waiting.done()


def test_server_waits_for_messages_that_nobody_has_read_yet() -> None:
    async def scenario() -> None:
        subscription = Topic.by_name("events of a test").subscribe()
        await subscription.topic.publish(MemoryMessage(b"finished", {}))
        waiting = asyncio.create_task(written())
        assert await still_waiting(waiting)
        await subscription.get()
        await asyncio.wait_for(waiting, timeout=30)

    asyncio.run(scenario())


def test_server_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_database, "WRITE_WITHIN_S", 0.1)

    async def scenario() -> None:
        await Topic.by_name("events of a test").publish(MemoryMessage(b"stuck", {}))
        await asyncio.wait_for(written(), timeout=30)

    asyncio.run(scenario())


@pytest.fixture(autouse=True)
def _forget_topics() -> Iterator[None]:
    yield
    Topic.clear_all()
