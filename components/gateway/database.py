"""The gateway's tables, in SQLite or PostgreSQL: all the state of the door, so that two gateways may run.

Every change of state is one transaction; where two processes want the same thing at the same instant, the
database decides and exactly one of them gets it. Times are seconds since 1970, UTC.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from components.errors import ServiceError

_T = TypeVar("_T")
SCHEMA = 3
_BUSY_S = 30.0
# Any number that no other program takes for its own advisory lock.
_SCHEMA_LOCK = 0x57415244

tables = MetaData()

meta = Table("gateway_meta", tables, Column("name", String(63), primary_key=True), Column("value", Integer))

sites = Table(
    "gateway_sites",
    tables,
    Column("name", String(63), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("signing_key", String(64)),
    Column("sealing_key", String(64)),
    Column("enrolled_at", Double),
    Column("serial", String(64)),
    Column("not_after", Double),
    Column("version", String(63)),
    Column("last_seen", Double),
    Column("activity", Text),
    Column("doctor", Text),
    Column("doctor_at", Double),
)

tokens = Table(
    "gateway_tokens",
    tables,
    Column("id", String(32), primary_key=True),
    Column("site", String(63), ForeignKey("gateway_sites.name"), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", Double),
    Column("used_for", String(64)),
)

credentials = Table(
    "gateway_credentials",
    tables,
    Column("serial", String(64), primary_key=True),
    Column("site", String(63), ForeignKey("gateway_sites.name"), nullable=False, index=True),
    Column("not_after", Double, nullable=False),
    Column("revoked_at", Double),
)

nonces = Table(
    "gateway_nonces",
    tables,
    Column("nonce", String(128), primary_key=True),
    Column("expires_at", Double, nullable=False, index=True),
)

grants = Table(
    "gateway_grants",
    tables,
    Column("site", String(63), primary_key=True),
    Column("digest", String(64), primary_key=True),
)


def _slot() -> list[Column[Any]]:
    """Return the columns that are the key of a slot's row; see `components.gateway.slot_rows`."""
    return [
        Column("training", String(63), primary_key=True),
        Column("round", Integer, primary_key=True),
        Column("attempt", Integer, primary_key=True),
        Column("kind", String(15), primary_key=True),
        Column("site", String(63), primary_key=True),
    ]


slot_grants = Table(
    "gateway_slot_grants",
    tables,
    *_slot(),
    Column("max_bytes", BigInteger, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("request", Text),
)

bells = Table(
    "gateway_bells",
    tables,
    Column("site", String(63), primary_key=True),
    Column("rung", Integer, nullable=False),
)

# New since tables of version 3 were first made. They are made where they are missing, and nothing older reads them.
spoken = Table(
    "gateway_spoken",
    tables,
    Column("site", String(63), ForeignKey("gateway_sites.name"), primary_key=True),
    Column("protocol", Integer, nullable=False),
)

leases = Table(
    "gateway_leases",
    tables,
    Column("name", String(127), primary_key=True),
    Column("place", String(63), nullable=False),
    Column("holder", String(255), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("renewed_at", Double, nullable=False),
    Column("life_s", Double, nullable=False),
)

claims = Table(
    "gateway_claims",
    tables,
    *_slot(),
    Column("renewed_at", Double, nullable=False),
    Column("life_s", Double, nullable=False),
)


class Database:
    """The gateway's database.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``.
        clock: What tells the time, in seconds since 1970.

    Raises:
        ServiceError: If it cannot be reached, or was made by another version.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._shown, self._engine = _engine(url)
        self.now = clock
        with self._errors(), self._engine.connect() as connection:
            if self._engine.dialect.name == "sqlite":
                # Outside any transaction, where alone SQLite takes it.
                connection.connection.driver_connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[union-attr]
        with self.write() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
            tables.create_all(connection)
            self._check_schema(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection in a transaction that only reads.

        Raises:
            ServiceError: If the database failed.
        """
        with self._errors(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection in a transaction; committed, and durable, when the block ends without an error.

        Raises:
            ServiceError: If the database failed; then nothing of the block was done.
        """
        engine = self._engine.execution_options(wardround_write=True)
        with self._errors(), engine.begin() as connection:
            yield connection

    def change(self, change: Callable[[Connection], _T]) -> _T:
        """Change something in one transaction; where another made the same row at the same instant, find it then.

        Raises:
            ServiceError: If the database failed; then nothing was done.
        """
        try:
            with self.write() as connection:
                return change(connection)
        except ServiceError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
        with self.write() as connection:
            return change(connection)

    def insert_once(self, table: Table, **values: Any) -> bool:
        """Insert a row, and return whether it was not there before. Of two processes, exactly one gets True."""
        try:
            with self._engine.execution_options(wardround_write=True).begin() as connection:
                connection.execute(insert(table).values(values))
        except IntegrityError:
            return False
        except SQLAlchemyError as error:
            raise self._error(error) from error
        return True

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _check_schema(self, connection: Connection) -> None:
        """Note the version of the tables, or refuse those of another version."""
        found = connection.execute(select(meta.c.value).where(meta.c.name == "schema")).scalar()
        if found is None:
            connection.execute(insert(meta).values(name="schema", value=SCHEMA))
        elif found != SCHEMA:
            raise ServiceError(
                f"the gateway's database {self._shown} has tables of version {found}, this WardRound knows version "
                f"{SCHEMA}: run the WardRound that made them, or restore a backup that fits"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of the database into ours."""
        try:
            yield
        except SQLAlchemyError as error:
            raise self._error(error) from error

    def _error(self, error: SQLAlchemyError) -> ServiceError:
        """Say which database failed; the first line of its own words, without statement and parameters."""
        words = str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0][:200]
        return ServiceError(
            f"the gateway's database {self._shown} failed ({words}): is it running, and its disk not full?"
        )


def _engine(url: str) -> tuple[str, Engine]:
    """Return a database's address without its password, and what talks to it."""
    try:
        address = make_url(url)
    except ArgumentError:
        address = URL.create("none")
    if address.drivername == "sqlite" and address.database:
        engine = create_engine(address, connect_args={"timeout": _BUSY_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif address.get_backend_name() == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
        # Two statements must see what the other committed in between: the default, said once more.
        engine = create_engine(address, pool_pre_ping=True, isolation_level="READ COMMITTED")
    else:
        raise ServiceError("the gateway's database must be sqlite:///FILE or postgresql://USER@HOST/NAME")
    return address.render_as_string(hide_password=True), engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Set a new connection up: committed means on the disk, and transactions begin where we say so."""
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    """Take the writer's lock at once: a reader that becomes a writer later may be refused for ever."""
    write = connection.get_execution_options().get("wardround_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
