"""Tags for every MLflow run that is started inside a round, whoever starts it.

MLflow finds `RoundContext` through the entry point ``mlflow.run_context_provider`` while it is being
imported, so this module imports neither MLflow nor torch. MLflow asks a provider for two methods and
does not ask for its base class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from components.tracking import tags as names

_VARIABLES = {names.STUDY: "WARDROUND_STUDY", names.ROUND: "WARDROUND_ROUND", names.SITE: "WARDROUND_SITE"}
_CURRENT: ContextVar[dict[str, str] | None] = ContextVar("wardround_round", default=None)


@contextmanager
def in_round(study: str, round_number: int, site: str | None = None) -> Iterator[None]:
    """Say that what runs inside this block, in this thread or task, belongs to a round.

    It goes before the environment variables ``WARDROUND_STUDY``, ``WARDROUND_ROUND`` and
    ``WARDROUND_SITE``, which say the same of a whole process.

    >>> with in_round("pneumonia", 3, "north"):
    ...     RoundContext().tags()
    {'wardround.study': 'pneumonia', 'wardround.round': '3', 'wardround.site': 'north'}
    """
    current = {names.STUDY: study, names.ROUND: str(round_number)}
    token = _CURRENT.set(current if site is None else {**current, names.SITE: site})
    try:
        yield
    finally:
        _CURRENT.reset(token)


def round_variables(study: str, round_number: int, site: str | None = None) -> dict[str, str]:
    """Return the environment variables that put a child process into a round.

    >>> round_variables("pneumonia", 3)
    {'WARDROUND_STUDY': 'pneumonia', 'WARDROUND_ROUND': '3'}
    """
    values = {"WARDROUND_STUDY": study, "WARDROUND_ROUND": str(round_number), "WARDROUND_SITE": site}
    return {name: value for name, value in values.items() if value is not None}


class RoundContext:
    """What MLflow asks when a run is started through `mlflow.start_run`."""

    def in_context(self) -> bool:
        """Tell whether this code runs inside a round."""
        return bool(self.tags())

    def tags(self) -> dict[str, str]:
        """Return study, round and site, as far as they are known."""
        current = _CURRENT.get()
        if current is not None:
            return dict(current)
        return {tag: os.environ[variable] for tag, variable in _VARIABLES.items() if os.environ.get(variable)}
