"""A home's own PostgreSQL while it is needed: that of ``wardround up``, or, while that is down, started for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from components.errors import ServiceError
from flows.coordinator import read_coordinator
from flows.local_federation import only_one, postgres_folder, postgres_part
from flows.local_postgres import LocalPostgres, find_postgres, free_port
from flows.local_record import end_left_parts, federation_folder, supervisor


@contextmanager
def running_postgres(home: Path) -> Iterator[tuple[LocalPostgres, int]]:
    """Yield a home's PostgreSQL and its port; if it was not running, it ends with the block.

    Raises:
        ServiceError: If it is not installed, does not come up, or ``wardround up`` is starting right now.
    """
    postgres = find_postgres(postgres_folder(home))
    if supervisor(home) is not None:
        port = make_url(read_coordinator(federation_folder(home)).database).port
        if port is None:
            raise ServiceError("the federation is up, and its settings name no port of PostgreSQL")
        yield postgres, port
        return
    with only_one(federation_folder(home)):
        end_left_parts(home)
        with started_postgres(postgres) as port:
            yield postgres, port


@contextmanager
def started_postgres(postgres: LocalPostgres) -> Iterator[int]:
    """Start a PostgreSQL that nobody runs, and end it with the block; yields its port."""
    port = free_port()
    part = postgres_part(postgres, port)
    part.start()
    try:
        postgres.wait_ready(port, lambda: part.ended)
        yield port
    finally:
        part.end()
