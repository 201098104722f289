"""uvicorn at the door: the certificate of each connection, how many there may be, and how slow their headers."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from components.gateway.limits import Limits, address_of

_NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python's ssl has no name for


class DoorLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers give a TLS handshake a few seconds, not asyncio's minute."""

    handshake_s = 10.0

    def create_server(self, *args: Any, **settings: Any) -> Any:
        """As asyncio's."""
        if settings.get("ssl") is not None:
            settings.setdefault("ssl_handshake_timeout", self.handshake_s)
        return super().create_server(*args, **settings)


class DoorConfig(uvicorn.Config):
    """uvicorn's settings, with our limits beside them.

    Args:
        app: The application.
        context: The server's side of TLS; see `server_context`.
        limits: What is served.
        **settings: Further settings of uvicorn's.
    """

    def __init__(self, app: Any, *, context: ssl.SSLContext, limits: Limits, **settings: Any) -> None:
        self.limits = limits
        self._context = context
        super().__init__(
            app,
            http=DoorProtocol,
            ws="none",
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            ssl_context_factory=self._context_of,
            h11_max_incomplete_event_size=limits.header_bytes,
            timeout_keep_alive=max(1, int(limits.idle_s)),
            timeout_graceful_shutdown=10,
            **settings,
        )

    def _context_of(self, _config: uvicorn.Config, _default: Any) -> ssl.SSLContext:
        """Return our context, where uvicorn asks for one."""
        return self._context


class DoorProtocol(H11Protocol):
    """One connection: counted, its certificate kept for every request on it, its headers timed.

    uvicorn itself waits for ever for the headers of a request that has begun.
    """

    _timer: asyncio.TimerHandle | None = None
    address = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection whose handshake is done, or drop it if there are too many."""
        super().connection_made(transport)
        limits: Limits = self.config.limits  # type: ignore[attr-defined]
        self.address = address_of(self.client)
        same = sum(1 for other in self.connections if getattr(other, "address", "") == self.address)
        if len(self.connections) > limits.connections or same > limits.connections_per_address:
            transport.abort()
            return
        secured = transport.get_extra_info("ssl_object")
        certificate = None if secured is None else secured.getpeercert(binary_form=True)
        self.app_state = {**self.app_state, "certificate": certificate, "abort": transport.abort}
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """Take some bytes; whoever begins a request has to finish its headers."""
        if self._timer is None and self.conn.their_state is h11.IDLE:
            self._await_headers()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._headers_came()

    def on_response_complete(self) -> None:
        """Answer done: uvicorn's own timer for idle connections runs, ours if a next request has begun already."""
        self._headers_came()
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] and not self.transport.is_closing():
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._headers_came()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        """Start the timer."""
        seconds = self.config.limits.header_s  # type: ignore[attr-defined]
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _headers_came(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Return the server's side of TLS: a client may show a certificate, and then it must be the authority's.

    Without one the connection stands all the same: for enrolment, and where a middlebox takes the certificate
    away and the request itself is signed (`components.gateway.identity`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    # The time is judged at every request, by the application, which can say so; TLS would only hang up.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VerifyFlags(_NO_CHECK_TIME)
    context.num_tickets = 0  # no resumption: every connection shows its certificate
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    return context
