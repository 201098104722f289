from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.governance.certificates import Authority, make_authority

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder: Path = tmp_path_factory.mktemp("authority") / "secrets"
    return make_authority("fed-1", folder, at=NOW)


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority that calls itself the same."""
    folder: Path = tmp_path_factory.mktemp("other") / "secrets"
    return make_authority("fed-1", folder, at=NOW)
