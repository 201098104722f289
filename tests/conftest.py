"""For every test: one thread a process, nothing reported to anybody, none of the user's own servers or folders."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from flows.embedded_prefect import EmbeddedPrefect
from tests.command_line import Run, Trained, run_command, train_tiny

# Before torch is imported anywhere: tests run side by side, one process a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.update(DO_NOT_TRACK="1", MLFLOW_DISABLE_TELEMETRY="true", PREFECT_SERVER_ANALYTICS_ENABLED="false")
# Before Prefect is imported by a test: without an address it would start a server of its own, and say so at the end.
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "WARDROUND_HOME"):
    os.environ.pop(name, None)

# No deadline: how long an example takes says more about the machine's other work than about the code.
settings.register_profile("wardround", deadline=None, database=None)
settings.load_profile("wardround")


@pytest.fixture(scope="session", autouse=True)
def _own_prefect_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prefect's client reads its profiles from a folder of its own, and starts no server by itself."""
    folder: Path = tmp_path_factory.mktemp("prefect-client")
    os.environ["PREFECT_HOME"] = str(folder)
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The tiny study, trained for two rounds; its Prefect server stays, so that the next command need not wait."""
    folder = tmp_path_factory.mktemp("trained")
    home = folder / "home"
    with EmbeddedPrefect.start(home):
        intensity = {"intensity": "percentile", "window": None}
        yield Trained(folder, home, train_tiny(folder, home, data=intensity, rounds={"max": 2}))


@pytest.fixture
def wardround(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line in this process, in a home of the test's own unless it names another."""
    return functools.partial(run_command, capfd, WARDROUND_HOME=str(tmp_path / "home"))
