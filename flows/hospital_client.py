"""How a hospital's worker reaches Prefect: through the gateway, known by its credential, with plain requests only.

Prefect's own settings know no client certificate and no signature, so its client is made here and left where
Prefect looks for one before it makes its own (`prefect.context.AsyncClientContext`). The gateway lets nothing else
through: no websocket, no event, no log, no question about its version or about cross-site tokens.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from prefect.context import AsyncClientContext
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    temporary_settings,
)

from components.gateway.prefect_proxy import PREFIX
from components.gateway.transport import Route, SignedAuth, client_context
from components.governance.identity_files import SiteFolder
from flows.prefect_settings import settings_for
from flows.servers import prefect_environment

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
# What the user's own Prefect profile may hold for another server; it is not sent to the gateway.
_FOREIGN: dict[Any, Any] = {PREFECT_API_AUTH_STRING: None, PREFECT_API_KEY: None, PREFECT_CLIENT_CUSTOM_HEADERS: {}}
_TIMEOUT = httpx.Timeout(90.0, connect=10.0)  # a poll is held for less than a minute
_RENEWED_S = 120.0  # longer than a request lasts, or an idle connection is kept


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
    """
    settings = client_settings(folder, route or Route())
    environment = worker_environment(folder.read_federation().gateway)
    os.environ["DO_NOT_TRACK"] = environment["DO_NOT_TRACK"]
    with settings_for(environment), temporary_settings(_FOREIGN):
        context = AsyncClientContext(httpx_settings=settings)
        context._httpx_settings = None  # the client of whoever asks for none in particular
        async with context:
            yield


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
        "follow_redirects": False,
        "event_hooks": {"response": [_not_found]},
    }


class CredentialAuth(httpx.Auth):
    """Shows the site's credential as it is now: a worker runs for longer than a credential lives.

    Args:
        folder: The site's folder.
        show_credential: Makes new connections show the credential.
        signed: Whether each request is signed besides.
    """

    requires_request_body = True

    def __init__(self, folder: SiteFolder, show_credential: Any, *, signed: bool) -> None:
        self._folder, self._show_credential, self._signed = folder, show_credential, signed
        self._stamp = self._now_stamp()
        self._closing_until = 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request; after a renewal on a connection that is not used again, until none of the old is left."""
        stamp = self._now_stamp()
        if stamp != self._stamp:
            self._show_credential()
            self._stamp, self._closing_until = stamp, time.monotonic() + _RENEWED_S
        if time.monotonic() < self._closing_until:
            request.headers["connection"] = "close"
        if self._signed:
            yield from SignedAuth(self._folder).auth_flow(request)
        else:
            yield request

    def _now_stamp(self) -> int:
        """Return when the credential was written."""
        return self._folder.credential.stat().st_mtime_ns


async def _not_found(response: httpx.Response) -> None:
    """Say it as Prefect's client understands it: what is refused is not there, for this site."""
    if response.status_code == httpx.codes.FORBIDDEN:
        response.status_code = httpx.codes.NOT_FOUND
