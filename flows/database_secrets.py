"""Who may enter which of a federation's databases: a role, a password and an address for each server.

::

    <folder>/postgres.password    the superuser's, as `initdb` and PostgreSQL's image want it
    <folder>/NAME.pgpass          a server's own (PostgreSQL's password file), one each for `SERVERS`

Passwords are in these files alone: addresses name the file, so that configurations and command lines hold none.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import quote

from components.exchange.secret_files import write_secret

SUPERUSER = "postgres"
SERVERS = ("prefect", "mlflow", "gateway")


def make_passwords(folder: Path) -> None:
    """Make the password files that are not there yet (0600); those that are there stay.

    Raises:
        StorageError: If one cannot be written.
    """
    plain = folder / f"{SUPERUSER}.password"
    write_secret(plain, secrets.token_urlsafe(32).encode(), once=True)
    write_secret(folder / f"{SUPERUSER}.pgpass", _line(SUPERUSER, plain.read_text()), once=True)
    for name in SERVERS:
        write_secret(folder / f"{name}.pgpass", _line(name, secrets.token_urlsafe(32)), once=True)


def database_url(name: str, *, host: str, port: int, passwords: Path, driver: str = "postgresql+psycopg") -> str:
    """Return the address of a server's database; the password is read from its file when it is used.

    >>> database_url("gateway", host="db", port=5432, passwords=Path("/run/secrets"))
    'postgresql+psycopg://gateway@db:5432/gateway?passfile=/run/secrets/gateway.pgpass'
    """
    return f"{driver}://{name}@{host}:{port}/{name}?passfile={quote(str(passwords / name))}.pgpass"


def _line(name: str, password: str) -> bytes:
    """Return a line of a password file: any server, any database, one role."""
    return f"*:*:*:{name}:{password}\n".encode()
