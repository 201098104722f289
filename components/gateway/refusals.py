"""How the gateway says no: the same few words to everybody, the reason only into the coordinator's own log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from components.errors import StorageError
from components.gateway.records import Refusal

WORDS: Mapping[int, str] = {
    400: "the request cannot be read",
    401: "no valid credential of this federation came with the request",
    403: "this is not allowed",
    404: "there is nothing here for this site",
    408: "the request came too slowly",
    409: "this contradicts what is there already",
    411: "the length of the body must be stated",
    413: "the request is too large",
    416: "there are no such bytes",
    426: "the two ends speak different versions of the protocol",
    429: "too many requests; wait and try again",
    431: "the headers are too large",
    500: "the gateway failed; its log says why",
    502: "a server behind the gateway did not answer as it should",
    503: "the gateway cannot serve now; try again",
    507: "the coordinator's disk is full",
}


class RefusalError(Exception):
    """A request is not served.

    Args:
        status: The HTTP status; a key of `WORDS`.
        reason: Why, for the coordinator's log.
        said: More for the one who asks, where it concerns nobody else.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        said: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status if status in WORDS else 500
        self.reason = reason
        self.said = dict(said or {})
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """Return the answer."""
        content = {**Refusal(error=WORDS[self.status]).model_dump(), **self.said}
        return JSONResponse(content, self.status, self.headers)


def refusal_of(error: Exception) -> RefusalError:
    """Return how an error of ours is told to a site: what a disk or a database said stays in the log.

    >>> refusal_of(StorageError("cannot write")).status, refusal_of(ValueError("away")).status
    (507, 503)
    """
    if isinstance(error, RefusalError):
        return error
    return RefusalError(507 if isinstance(error, StorageError) else 503, str(error))
