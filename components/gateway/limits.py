"""How much anybody may ask of the gateway: bytes, requests, connections and time, checked before bytes are read."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

from pydantic import Field

from components.gateway.records import Record
from components.gateway.refusals import RefusalError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Limits(Record):
    """What one gateway process serves.

    Attributes:
        connections: Open at the same time.
        connections_per_address: Of those, from one address. Hospitals may share one behind their provider.
        header_bytes: Of a request's first line and headers together.
        header_fields: Number of headers.
        header_s: Seconds in which the headers must have come, and the TLS handshake be done.
        idle_s: Seconds an idle connection is kept.
        body_grace_s: Seconds a body may take anyhow; and at most so long between two parts of it.
        body_bytes_per_s: Beyond that, the least a body must come with. 4 KiB/s is a modem.
        send_s: Seconds in which the other end must take a part of an answer.
        json_bytes: Of a JSON body.
        envelope_bytes: Of an envelope.
        chunk_bytes: Of one part of a payload.
        activity_bytes: Of what a heartbeat says.
        address_per_s: Requests of one address, on average; up to `address_burst` at once.
        site_per_s: Requests of one site, on average; up to `site_burst` at once.
        open_per_s: Requests of one address without a credential; up to `open_burst` at once.
    """

    connections: Count = 1024
    connections_per_address: Count = 256
    header_bytes: Count = 16 << 10
    header_fields: Count = 64
    header_s: Positive = 10.0
    idle_s: Positive = 75.0
    body_grace_s: Positive = 30.0
    body_bytes_per_s: Positive = 4096.0
    send_s: Positive = 60.0
    json_bytes: Count = 64 << 10
    envelope_bytes: Count = 8 << 20
    chunk_bytes: Count = 16 << 20
    activity_bytes: Count = 8 << 10
    address_per_s: Positive = 400.0
    address_burst: Count = 800
    site_per_s: Positive = 100.0
    site_burst: Count = 200
    open_per_s: Positive = 2.0
    open_burst: Count = 30


class Buckets:
    """Token buckets by name: each refills at `rate` a second up to `burst`; the idlest are forgotten first.

    Args:
        rate: Requests a second.
        burst: Requests at once.
        clock: What tells seconds.
        size: Names that are remembered.
    """

    def __init__(
        self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic, size: int = 10_000
    ) -> None:
        self._rate, self._burst, self._clock, self._size = rate, burst, clock, size
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take one token; return 0, or the seconds until there will be one.

        >>> buckets = Buckets(2.0, 1, clock=lambda: 0.0)
        >>> buckets.take("north"), buckets.take("north"), buckets.take("south")
        (0.0, 0.5, 0.0)
        """
        now = self._clock()
        level, then = self._levels.pop(name, (float(self._burst), now))
        level = min(self._burst, level + (now - then) * self._rate)
        enough = level >= 1
        self._levels[name] = (level - 1 if enough else level, now)
        if len(self._levels) > self._size:
            self._levels.popitem(last=False)
        return 0.0 if enough else (1 - level) / self._rate

    def require(self, name: str) -> None:
        """Take one token, or refuse."""
        wait_s = self.take(name)
        if wait_s:
            raise RefusalError(429, f"too many requests of {name}", headers={"Retry-After": str(int(wait_s) + 1)})


def address_of(client: tuple[str, int] | None) -> str:
    """Return who an address is counted as: IPv6 by its network of 64 bits, which one household has.

    >>> address_of(("2001:db8::1:2", 1)), address_of(("192.0.2.7", 1))
    ('2001:db8::/64', '192.0.2.7')
    """
    try:
        address = ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        address = None
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address.packed, 64), strict=False))
    return str(address or "unknown")


def stated_length(headers: list[tuple[bytes, bytes]]) -> int:
    """Return the stated length of a body, 0 if there is none.

    Bodies of unstated length are refused: nothing could be checked before they are read, and two programs
    that read the same bytes could disagree where one request ends and the next begins.
    """
    if any(name == b"transfer-encoding" for name, _ in headers):
        raise RefusalError(411, "a body with a transfer encoding")
    lengths = [value for name, value in headers if name == b"content-length"]
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise RefusalError(400, "a length that is none")
    return int(lengths[0])


class Body:
    """The body of one request: at most as long as stated, no slower than allowed, with the digest that was signed.

    Args:
        receive: Where it comes from.
        length: Stated length in bytes.
        limits: How slow it may be.
    """

    def __init__(self, receive: Receive, length: int, limits: Limits) -> None:
        self.length, self.unread = length, length
        self.sha256: str | None = None
        self._receive, self._limits = receive, limits
        self._state = hashlib.sha256()
        self._started: float | None = None

    async def receive(self) -> Message:
        """Return the next part, as ASGI has it."""
        started = self._started = self._started or time.monotonic()
        received = self.length - self.unread
        left_s = self._limits.body_grace_s + received / self._limits.body_bytes_per_s - (time.monotonic() - started)
        if not self.unread:
            return await self._receive()
        try:
            async with asyncio.timeout(min(left_s, self._limits.body_grace_s)):
                message = await self._receive()
        except TimeoutError as error:
            raise RefusalError(408, f"a body of {self.length} bytes came too slowly") from error
        if message["type"] == "http.request":
            self._take(message.get("body", b""))
        return message

    def require_signed(self, sha256: str) -> None:
        """Demand that the body has this digest; an empty one is judged at once."""
        self.sha256 = sha256
        if not self.length:
            self._check()

    def _take(self, part: bytes) -> None:
        """Count and hash a part."""
        self.unread -= len(part)
        if self.sha256 is not None:
            self._state.update(part)
            if not self.unread:
                self._check()

    def _check(self) -> None:
        """Refuse a body that is not the one that was signed."""
        if self._state.hexdigest() != self.sha256:
            raise RefusalError(401, "the body is not the one that was signed")
