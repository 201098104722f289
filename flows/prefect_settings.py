"""The Prefect settings a training runs with, whatever was imported or set before."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import prefect.settings
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

# Prefect gives these their level once, when it is imported; all its others inherit from the first.
_LOGGERS = ("prefect", "prefect.client", "prefect.extra", "prefect.infrastructure")


@contextmanager
def settings_for(environment: Mapping[str, str]) -> Iterator[None]:
    """Use a server as its environment variables say, in this context.

    Args:
        environment: As `flows.servers.prefect_environment` returns it. No run has a heartbeat thread, though:
            each would cost a second at the end of its round.
    """
    changed: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    for name, value in environment.items():
        if name.startswith("PREFECT_"):
            changed[getattr(prefect.settings, name)] = value
    with temporary_settings(changed), _logging_at(environment.get("PREFECT_LOGGING_LEVEL", "CRITICAL")):
        yield


@contextmanager
def _logging_at(level: str) -> Iterator[None]:
    """Let Prefect's loggers say only what has this level."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, its in zip(loggers, before, strict=True):
            logger.setLevel(its)
