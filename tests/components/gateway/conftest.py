from collections.abc import Iterator

import pytest

from components.gateway.database import Database
from components.governance.identity_files import CoordinatorFolder, SiteFolder
from tests.components.gateway.gates import Build, Gate, Running
from tests.components.gateway.relay import Relay


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    folder = tmp_path_factory.mktemp("federation")
    secrets = CoordinatorFolder(folder).make("ward", names=["localhost"], ips=["127.0.0.1"])
    made: list[tuple[Running, Database]] = []
    yield Build(folder, secrets, made)
    for running, database in made:
        running.stop()
        database.close()


@pytest.fixture(scope="module")
def gate(build: Build) -> Gate:
    """A federation of north and south."""
    return build()


@pytest.fixture(scope="module")
def north(gate: Gate) -> SiteFolder:
    return gate.enrol("north")


@pytest.fixture(scope="module")
def south(gate: Gate) -> SiteFolder:
    return gate.enrol("south")


@pytest.fixture
def relays() -> Iterator[list[Relay]]:
    made: list[Relay] = []
    yield made
    for relay in made:
        relay.close()
