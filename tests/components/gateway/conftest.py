from collections.abc import Iterator

import pytest

from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Build, Gate, gates
from tests.components.gateway.relay import Relay


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    with gates(tmp_path_factory.mktemp("federation")) as made:
        yield made


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
