"""The Prefect settings a training runs with, whatever was imported or set before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    temporary_settings,
)


@contextmanager
def settings_for(api_url: str, home: Path) -> Iterator[None]:
    """Use a server, and no heartbeat threads: each would cost a second at the end of its round."""
    changed = {PREFECT_API_URL: api_url, PREFECT_HOME: home / "prefect", PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(changed):
        yield
