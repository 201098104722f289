"""The first thing every request meets: what it may weigh, how often it may come, who sends it, and only then its body.

Whoever is nobody gets one answer (401) on every path but the open ones, whether there is anything or not. What
is refused closes the connection once the few bytes on their way were let pass; its body is not read.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from components.errors import WardRoundError
from components.gateway.identity import Caller, Identities, Request
from components.gateway.limits import Body, Buckets, Limits, Message, Receive, address_of, stated_length
from components.gateway.refusals import RefusalError, refusal_of

log = logging.getLogger("wardround.gateway")

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LINGER_S, _LINGER_BYTES = 2.0, 4 << 20
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_ALWAYS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


@dataclass(frozen=True)
class Entrance:
    """What a kind of request may weigh.

    Attributes:
        method: ``GET``, ``PUT``, ...
        path: A regular expression for the whole path.
        body_bytes: Longest body.
        open: Whether it needs no credential.
    """

    method: str
    path: re.Pattern[str]
    body_bytes: int = 0
    open: bool = False


class GoneError(Exception):
    """The other end does not take its answer."""


class Door:
    """An ASGI application around another one.

    Args:
        app: What lies behind. It finds who asks in ``scope["state"]["caller"]``.
        entrances: What may be asked for; anything else has no body, and no place.
        identities: Finds out who asks.
        limits: What is served.
        clock: What tells seconds since 1970.
    """

    def __init__(
        self, app: App, entrances: Sequence[Entrance], identities: Identities, *, limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._app, self._entrances, self._identities = app, entrances, identities
        self._limits, self._clock = limits, clock
        self._addresses = Buckets(limits.address_per_s, limits.address_burst)
        self._sites = Buckets(limits.site_per_s, limits.site_burst)
        self._strangers = Buckets(limits.open_per_s, limits.open_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._limits.send_s)
        answer.body = Body(receive, 1, self._limits)  # of unknown length so far: refused now, the connection ends
        try:
            await self._serve(scope, receive, answer)
        except (RefusalError, WardRoundError) as error:
            refusal = refusal_of(error)
            note(scope, refusal)
            if not answer.started:
                await refusal.response()(scope, answer.body.receive, answer.send)
        except GoneError:
            scope["state"]["abort"]()

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        """Check everything that can be checked before the body is read, then go on."""
        address = address_of(scope["client"])
        headers = self._read_headers(scope)
        answer.body = body = Body(receive, stated_length(scope["headers"]), self._limits)
        self._addresses.require(address)
        entrance = next(
            (e for e in self._entrances if e.method == scope["method"] and e.path.fullmatch(scope["path"])), None
        )
        if entrance is None or not entrance.open:
            caller = await self._identify(scope, headers, address)
            self._sites.require(caller.site)
            scope["state"]["caller"] = caller
            if caller.body_sha256 is not None:
                body.require_signed(caller.body_sha256)
        elif entrance.method != "GET":
            self._strangers.require(address)
        if entrance is None:
            raise RefusalError(404, "there is no such route")
        if body.length > entrance.body_bytes:
            raise RefusalError(413, f"a body of {body.length} bytes, at most {entrance.body_bytes}")
        scope["state"]["body"] = body
        await self._app(scope, body.receive, answer.send)

    async def _identify(self, scope: Scope, headers: dict[str, str], address: str) -> Caller:
        """Find out who asks; those who fail at it too often are not even asked any more."""
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (scope["raw_path"] + query).decode("ascii")
        request = Request(scope["method"], target, headers, scope["state"].get("certificate"))
        try:
            return await run_in_threadpool(self._identities.identify, request, self._clock())
        except RefusalError:
            self._strangers.require(address)
            raise

    def _read_headers(self, scope: Scope) -> dict[str, str]:
        """Return the headers by name, if they are few and short and each comes once."""
        fields: list[tuple[bytes, bytes]] = scope["headers"]
        size = sum(len(name) + len(value) for name, value in fields) + len(scope["raw_path"])
        if size + len(scope["query_string"]) > self._limits.header_bytes or len(fields) > self._limits.header_fields:
            raise RefusalError(431, f"{len(fields)} headers of {size} bytes")
        headers = {name.decode("latin1"): value.decode("latin1") for name, value in fields}
        # A path is what it looks like: no encoding that another program could read in another way.
        path = scope["raw_path"]
        if not _TARGET.fullmatch(path) or b"%" in path or b"\\" in path or scope["path"].encode() != path:
            raise RefusalError(400, "a path with an encoding")
        doubled = len(headers) != len(fields) and len({name for name, _ in fields}) != len(fields)
        if doubled:
            raise RefusalError(400, "a header that comes twice")
        return headers


class _Answer:
    """The way back: what is always said, how slowly it may be taken, and what happens to a body nobody wanted."""

    body: Body

    def __init__(self, scope: Scope, send: Send, send_s: float) -> None:
        self.started = False
        self._scope, self._send, self._send_s = scope, send, send_s

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.started = True
            closing = [(b"connection", b"close")] if self.body.unread else []
            message = {**message, "headers": [*message.get("headers", []), *_ALWAYS, *closing]}
        elif self.body.unread and not message.get("more_body", False):
            await self._send_in_time({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send_in_time(message)

    async def _send_in_time(self, message: Message) -> None:
        """Send, or give up on an end that does not read."""
        try:
            async with asyncio.timeout(self._send_s):
                await self._send(message)
        except TimeoutError as error:
            raise GoneError from error

    async def _linger(self) -> None:
        """Let pass what is on its way: closed at once, the other end might never see the answer."""
        start = self.body.unread
        try:
            async with asyncio.timeout(_LINGER_S):
                while self.body.unread and start - self.body.unread < _LINGER_BYTES:
                    if not (await self.body.receive()).get("more_body", False):
                        return
        except (TimeoutError, RefusalError):
            return


def note(scope: Scope, refusal: RefusalError) -> None:
    """Write why something was refused into the coordinator's log."""
    caller = scope.get("state", {}).get("caller")
    who = caller.site if caller is not None else "nobody"
    log.warning("%s %s by %s (%s): %d, %s", scope["method"], ascii(scope["path"]), who, address_of(scope["client"]),
                refusal.status, refusal.reason)  # fmt: skip
