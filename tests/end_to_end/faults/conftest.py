"""One federation for the rows of a file."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.faults.trained import Trained, federation


@pytest.fixture(scope="module")
def trained() -> Iterator[Trained]:
    """A federation whose study was trained once with nothing happening to it."""
    with federation() as made:
        yield made
