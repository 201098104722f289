"""What the routes have in common: a table of them, and how they read what came."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, compile_path

from components.gateway.door import Entrance, GoneError
from components.gateway.identity import Caller
from components.gateway.refusals import RefusalError
from components.mistakes import first_mistake

_R = TypeVar("_R", bound=BaseModel)


@dataclass(frozen=True)
class Endpoint:
    """A route: what may be asked, what it may weigh, and who answers.

    Attributes:
        method: ``GET``, ``PUT``, ...
        path: Starlette's template of the path.
        answer: Who answers.
        body_bytes: Longest body.
        open: Whether it needs no credential.
    """

    method: str
    path: str
    answer: Callable[[Request], Awaitable[Response]]
    body_bytes: int = 0
    open: bool = False

    @property
    def entrance(self) -> Entrance:
        """What the door checks."""
        return Entrance(self.method, compile_path(self.path)[0], self.body_bytes, self.open)

    @property
    def route(self) -> Route:
        """What leads there."""
        return Route(self.path, self.answer, methods=[self.method])


def caller_of(request: Request) -> Caller:
    """Return who asks; the door found it out."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


async def read_body(request: Request) -> bytes:
    """Return the whole body."""
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise GoneError from error


async def read_record(request: Request, record: type[_R]) -> _R:
    """Return the record in the body.

    Raises:
        RefusalError: If it is none (400), naming the field.
    """
    return parse_record(await read_body(request), record)


def parse_record(text: bytes, record: type[_R]) -> _R:
    """Return a record from its JSON.

    Raises:
        RefusalError: If it is none (400), naming the field.
    """
    try:
        return record.model_validate_json(text)
    except ValidationError as error:
        reason = first_mistake(error, "the body")
        raise RefusalError(400, reason, said={"reason": reason}) from error


def answer_with(record: BaseModel, status: int = 200) -> JSONResponse:
    """Return a record as an answer."""
    return JSONResponse(record.model_dump(mode="json"), status)
