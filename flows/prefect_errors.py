"""The border to Prefect: its errors, and those of its HTTP client, as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import ServiceError, StorageError
from flows.home import is_full

# Told by name: importing them here would import Prefect before its settings are known.
_LIBRARIES = frozenset({"prefect", "httpx", "httpcore", "websockets"})


@contextmanager
def prefect_errors(api_url: str, home: Path) -> Iterator[None]:
    """Turn every error of Prefect's inside into ours, with one clear message.

    Args:
        api_url: Address of the Prefect server, for the message.
        home: The home folder: a server whose disk is full fails in many ways, so that is looked at first.

    Raises:
        StorageError: If the home's disk is full.
        ServiceError: Otherwise.
    """
    try:
        yield
    except ServiceError as error:
        _raise_if_full(home, error)
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        _raise_if_full(home, error)
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ServiceError(
            f"Prefect at {api_url} stopped working in the middle of the training ({reason}). "
            "Nothing recorded is lost: see that it runs, then run the same command again"
        ) from error


def _raise_if_full(home: Path, error: Exception) -> None:
    if is_full(home):
        raise StorageError(
            f"the disk that holds {home} is full: free some space, then run the same command again; "
            "nothing recorded is lost"
        ) from error
