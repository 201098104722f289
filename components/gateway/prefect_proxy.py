"""Prefect behind the door: the few routes a worker needs, each checked against the caller's own; all else is refused.

A route is let through if the table has it and its check says that what it touches belongs to the caller; whoever
asks for something that is not there and for something that is another's gets the same answer (403). What is passed
on is written anew from what was checked: path, named query fields, canonical JSON. No header of the caller's gets
through, and none of the server's but the type of the content.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import compile_path

from components.gateway.endpoints import Endpoint, caller_of, read_body
from components.gateway.refusals import RefusalError

log = logging.getLogger("wardround.gateway")

PREFIX = "/v1/prefect/api"
BODY_BYTES = 1 << 20
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.:-]*)+/?|/", flags=re.ASCII)
_UPSTREAM = httpx.Timeout(60.0, connect=5.0)
_ASK_AGAIN_S = 10.0  # the work itself does not come this way (`components.gateway.work`)

Fetch = Callable[[str], Awaitable[Any]]
Check = Callable[[str, Mapping[str, str], Any, Fetch], Awaitable[bool]]


@dataclass(frozen=True)
class PrefectRoute:
    """A route of Prefect's that sites may use.

    Attributes:
        method: ``GET``, ``POST``, ...
        path: Template below Prefect's ``/api``, with ``{names}`` for its parts.
        check: Called with the site, the parts of the path, the body (None if there is none) and `Fetch`; says
            whether the site may. `Fetch` gets an object of Prefect's by its path, None if there is none.
        query: Fields of the query that are passed on; any other is refused.
        held: Whether an empty list is an answer only after a while: the question is kept open until there is work.
    """

    method: str
    path: str
    check: Check
    query: frozenset[str] = frozenset()
    held: bool = False


class PrefectProxy:
    """The routes of Prefect's.

    Args:
        url: Address of its API.
        auth: Its ``PREFECT_API_AUTH_STRING``; empty if it has none.
        routes: What is let through.
        hold_s: How long a question is held.
    """

    def __init__(self, url: str, auth: str, routes: Sequence[PrefectRoute], *, hold_s: float) -> None:
        self._routes = [(route, compile_path(route.path)[0]) for route in routes]
        self._hold_s, self._closing = hold_s, asyncio.Event()
        name, _, password = auth.partition(":")
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            auth=httpx.BasicAuth(name, password) if auth else None,
            timeout=_UPSTREAM,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=512, max_keepalive_connections=64),
        )

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The routes: everything below the prefix comes here, to be let through or refused."""
        return [Endpoint(method, PREFIX + "{rest:path}", self.pass_on, BODY_BYTES) for method in _METHODS]

    def let_go(self) -> None:
        """Let everybody go whose question is held."""
        self._closing.set()

    async def close(self) -> None:
        """Close the connections to Prefect."""
        await self._client.aclose()

    async def pass_on(self, request: Request) -> Response:
        """Let a request through, or refuse it."""
        site, path = caller_of(request).site, request.path_params["rest"]
        route, parts = self._find(request.method, path)
        body = parse_body(await read_body(request))
        query = request.query_params.multi_items()
        if any(name not in route.query for name, _ in query) or not await self._allows(route, site, parts, body):
            raise RefusalError(403, f"{request.method} {path} is not {site}'s")
        upstream = self._client.build_request(
            request.method, path, params=httpx.QueryParams(tuple(query)), headers={"accept-encoding": "identity"},
            **({} if body is None else {"json": body}),
        )  # fmt: skip
        if route.held:
            return await self._hold(request, upstream)
        answer = await self._send(upstream)
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, _headers(answer), background=BackgroundTask(answer.aclose)
        )

    def _find(self, method: str, path: str) -> tuple[PrefectRoute, Mapping[str, str]]:
        """Return the route of the table that fits, with the parts of the path."""
        if _PATH.fullmatch(path):
            for route, pattern in self._routes:
                match = pattern.fullmatch(path) if route.method == method else None
                if match is not None:
                    return route, match.groupdict()
        raise RefusalError(403, f"{method} {path!a} is not in the table")

    async def _allows(self, route: PrefectRoute, site: str, parts: Mapping[str, str], body: Any) -> bool:
        """Ask a route's check. One that stumbles over what it was given has not allowed it."""
        try:
            return await route.check(site, parts, body, self._fetch) is True
        except (LookupError, TypeError, ValueError, AttributeError):
            log.exception("the check of %s %s failed", route.method, route.path)
            return False

    async def _fetch(self, path: str) -> Any:
        """Return an object of Prefect's; None if there is none."""
        if not _PATH.fullmatch(path):
            return None
        answer = await self._send(self._client.build_request("GET", path))
        try:
            await answer.aread()
        finally:
            await answer.aclose()
        return answer.json() if answer.status_code == 200 else None

    async def _send(self, upstream: httpx.Request) -> httpx.Response:
        """Ask Prefect. What it says when it fails stays here: it may tell of others."""
        try:
            answer = await self._client.send(upstream, stream=True)
        except httpx.TransportError as error:
            raise RefusalError(503, f"Prefect does not answer: {type(error).__name__}") from error
        if answer.status_code >= 500 or answer.status_code in (401, 403) or answer.is_redirect:
            await answer.aclose()
            status = 503 if answer.status_code == 503 else 502
            raise RefusalError(status, f"Prefect answered {answer.status_code} to {upstream.url.path}")
        return answer

    async def _hold(self, request: Request, upstream: httpx.Request) -> Response:
        """Ask Prefect for work until there is some, every few seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._hold_s
        while True:
            answer = await self._send(upstream)
            try:
                content = await answer.aread()
            finally:
                await answer.aclose()
            left_s, found = end - loop.time(), answer.status_code != 200 or content.strip() != b"[]"
            if found or left_s <= 0 or self._closing.is_set() or await request.is_disconnected():
                return Response(content, answer.status_code, _headers(answer))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), min(_ASK_AGAIN_S, left_s))


def parse_body(text: bytes) -> Any:
    """Return a JSON body of which there is only one reading; None if there is none.

    Raises:
        RefusalError: If it is not JSON, has a name twice, or a number that JSON has not (400).
    """
    if not text:
        return None
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusalError(400, "a body that is not JSON of one reading") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_constant(name: str) -> Any:
    """Refuse NaN and infinity."""
    raise ValueError(name)


def _headers(answer: httpx.Response) -> dict[str, str]:
    """Return what is passed on of an answer's headers."""
    kept = {"content-type"} | ({"content-length"} if answer.request.method != "HEAD" else set())
    return {name: value for name, value in answer.headers.items() if name in kept}
