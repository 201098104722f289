"""A coordinator's side as tests have it: everybody signs with one key, and nothing is shown in Prefect."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.exchange.keys import SigningKey, VerifyKey
from components.gateway.claims import Claims
from components.gateway.database import Database
from components.gateway.grants import Grants
from components.gateway.leases import Leases
from components.gateway.sites import Sites
from components.governance.identity_files import CoordinatorFolder
from flows.coordinator import CoordinatorSide

KEY = SigningKey.generate()


class Side(CoordinatorSide):
    """A coordinator's side on which everybody signs with one key."""

    def signing_key(self, site: str) -> VerifyKey:
        return KEY.public


class Quiet:
    """In place of what shows runs in Prefect, and of what builds the network here."""

    def show(self, run: Any) -> None: ...

    def ended(self, key: str, state: Any) -> None: ...

    def say(self, number: int, text: str) -> None: ...

    def close(self) -> None: ...


@contextmanager
def open_side(folder: Path) -> Iterator[Side]:
    """Make a coordinator in a folder."""
    database = Database(f"sqlite:///{folder}/g.db")
    secrets = CoordinatorFolder(folder).make("ward", names=["localhost"], ips=[])
    try:
        yield Side("ward", secrets, Sites(database), Grants(database), Claims(database), folder, Leases(database))
    finally:
        database.close()
