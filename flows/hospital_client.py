"""How a hospital's worker reaches Prefect: through the gateway, known by its credential, with plain requests only.

Prefect's own settings know no client certificate and no signature, so its client is made here and left where
Prefect looks for one before it makes its own (`prefect.context.AsyncClientContext`). The gateway lets nothing else
through: no websocket, no event, no log, no question about its version or about cross-site tokens.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import httpx
from prefect.context import AsyncClientContext

from components.errors import RefusedError
from components.gateway.client import GatewayClient
from components.gateway.prefect_proxy import PREFIX
from components.gateway.transport import Route, SignedAuth, client_context
from components.governance.identity_files import SiteFolder
from flows.prefect_settings import settings_for
from flows.servers import prefect_environment

log = logging.getLogger("wardround.hospital")

_T = TypeVar("_T")
_WORKER = {
    "PREFECT_API_ENABLE_HTTP2": "false",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
    "PREFECT_CLIENT_METRICS_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_WORKER_ENABLE_CANCELLATION": "false",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "30",
    # The gateway holds a poll until there is work: the next one may follow at once.
    "PREFECT_WORKER_QUERY_SECONDS": "0.2",
}
# What a request needs. What the user's Prefect profile adds for another server (keys, headers) stays here.
_HEADERS = frozenset({"accept", "accept-encoding", "connection", "content-length", "content-type", "host"})
_TIMEOUT = httpx.Timeout(90.0, connect=10.0)  # a poll is held for less than a minute
_RENEWED_S = 120.0  # longer than a request lasts, or an idle connection is kept
_AWAY_S = 2.0
_LIMITS = httpx.Limits(max_connections=16, max_keepalive_connections=4, keepalive_expiry=25)


def worker_environment(gateway: str) -> dict[str, str]:
    """Return the environment of a worker's process; best set before Prefect is imported.

    Args:
        gateway: ``https://HOST:PORT``.
    """
    return {**prefect_environment(gateway.rstrip("/") + PREFIX, None), **_WORKER}


@asynccontextmanager
async def connected(folder: SiteFolder, route: Route | None = None) -> AsyncIterator[None]:
    """Turn Prefect's client to the site's gateway, in this context and the tasks it starts.

    Args:
        folder: The site's folder, after it enrolled.
        route: The way to the gateway. ``HTTPS_PROXY`` is used besides.

    Raises:
        StorageError: If the folder cannot be used.
        RefusedError: If the gateway does not let the site in; the reason is said.
    """
    route = route or Route()
    settings = client_settings(folder, route)
    environment = worker_environment(folder.read_federation().gateway)
    os.environ["DO_NOT_TRACK"] = environment["DO_NOT_TRACK"]
    with settings_for(environment):
        context = AsyncClientContext(httpx_settings=settings)
        context._httpx_settings = None  # the client of whoever asks for none in particular
        async with context, explaining(folder, route):
            yield


@asynccontextmanager
async def explaining(folder: SiteFolder, route: Route) -> AsyncIterator[None]:
    """Say why, where the gateway does not let this site in.

    Raises:
        RefusedError: Then.
    """
    try:
        yield
    except Exception as error:
        if not _is_unknown(error):
            raise
        await asyncio.to_thread(_say_why, folder, route)
        raise RefusedError("the gateway did not let this hospital in, and does now: start again") from error


async def patiently(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask for as long as it takes: a worker outlives every outage of gateway and server."""
    while True:
        try:
            return await ask()
        except httpx.HTTPError as error:
            answer = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 503
            if answer < 500 and answer != httpx.codes.TOO_MANY_REQUESTS:
                raise
            log.warning("the gateway, or Prefect behind it, cannot be reached (%s %s)", type(error).__name__, answer)
        await asyncio.sleep(_AWAY_S)


def client_settings(folder: SiteFolder, route: Route) -> dict[str, Any]:
    """Return what Prefect's httpx client needs to be known at the gateway, also when the credential was renewed."""
    folder.read_keys()  # refuses keys that others may read
    context = client_context(folder.read_federation().ca, route, folder)

    def show_credential() -> None:
        if not route.signed:
            context.load_cert_chain(folder.credential, folder.tls_key)

    return {
        "verify": context,
        "auth": CredentialAuth(folder, show_credential, signed=route.signed),
        "timeout": _TIMEOUT,
        "limits": _LIMITS,
        "follow_redirects": False,
        "event_hooks": {"response": [_not_found]},
    }


def _is_unknown(error: Exception) -> bool:
    """Return whether an error, or one of a group, says that the gateway does not know who asks."""
    if isinstance(error, ExceptionGroup):
        return any(_is_unknown(one) for one in error.exceptions)
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.UNAUTHORIZED


def _say_why(folder: SiteFolder, route: Route) -> None:
    """Raise why the gateway does not let this site in."""
    with GatewayClient(folder, replace(route, patience_s=1.0)) as client:
        client.federation()


class CredentialAuth(httpx.Auth):
    """Shows the site's credential as it is now: a worker runs for longer than a credential lives.

    Args:
        folder: The site's folder.
        show_credential: Makes new connections show the credential.
        signed: Whether each request is signed besides.
    """

    requires_request_body = True

    def __init__(self, folder: SiteFolder, show_credential: Callable[[], None], *, signed: bool) -> None:
        self._folder, self._show_credential, self._signed = folder, show_credential, signed
        self._stamp = self._now_stamp()
        self._closing_until = 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request with few headers; signed, if so it must be.

        After a renewal no connection is used again that showed the old credential: each request asks for its
        connection to be closed, and one that the gateway did not take from the old one is sent again.
        """
        for name in set(request.headers) - _HEADERS:
            del request.headers[name]
        for _ in range(1 + (_LIMITS.max_keepalive_connections or 0)):
            renewed = self._renewed()
            if renewed:
                request.headers["connection"] = "close"
            if self._signed:
                next(SignedAuth(self._folder).auth_flow(request))
            answer = yield request
            if answer.status_code != httpx.codes.UNAUTHORIZED or not renewed:
                return

    def _renewed(self) -> bool:
        """Return whether the credential was renewed a short while ago; show the new one from now on."""
        stamp = self._now_stamp()
        if stamp != self._stamp:
            self._show_credential()
            self._stamp, self._closing_until = stamp, time.monotonic() + _RENEWED_S
        return time.monotonic() < self._closing_until

    def _now_stamp(self) -> int:
        """Return when the credential was written."""
        return self._folder.credential.stat().st_mtime_ns


async def _not_found(response: httpx.Response) -> None:
    """Say it as Prefect's client understands it: what is refused is not there, for this site."""
    if response.status_code == httpx.codes.FORBIDDEN:
        response.status_code = httpx.codes.NOT_FOUND
