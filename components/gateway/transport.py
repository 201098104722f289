"""How a hospital talks to the gateway: TLS with its credential or signed requests, patience, and errors in words.

The proxy of ``HTTPS_PROXY`` is used. Where a middlebox ends TLS, its certificate authority is named by a file, and
requests are signed instead of showing a client certificate that would not get through.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from components.errors import RefusedError, ServiceError, StorageError, WardRoundError
from components.exchange.keys import TlsKey
from components.gateway.signed_requests import WINDOW_S, sign_request
from components.governance.identity_files import SiteFolder

PATIENCE_S = 60.0
TRIES = "wardround.tries"  # in an answer's extensions: how often was asked for it; what came before may have arrived
_AGAIN = frozenset({429, 502, 503, 504})
_FIRST_S, _LONGEST_S = 0.2, 10.0
_TIMEOUT = httpx.Timeout(90.0, connect=10.0)
_ENROL_AGAIN = "ask the federation's operator for a new token, then run: wardround hospital enroll --token ..."
_SAID = {
    403: "the gateway does not allow this",
    404: "the gateway has nothing there for this site: the round is closed, or it was never this site's",
    409: "the gateway has something else there already",
    413: "the gateway finds it too large",
    426: "hospital and gateway speak different versions: update the older one",
    507: "the coordinator's disk is full: tell the operator",
}


@dataclass(frozen=True)
class Route:
    """The way from a hospital to its gateway.

    Attributes:
        authority_file: The certificate authority of a middlebox that ends TLS (PEM); None if there is none.
        signed: Whether requests are signed, because client certificates do not get through.
        patience_s: How long a gateway that does not answer is tried again.
    """

    authority_file: Path | None = None
    signed: bool = False
    patience_s: float = PATIENCE_S


class SignedAuth(httpx.Auth):
    """Signs each request anew with the site's credential, for httpx.

    Args:
        folder: The site's folder.
    """

    requires_request_body = True

    def __init__(self, folder: SiteFolder) -> None:
        self._key = TlsKey.load(folder.tls_key)
        self._certificate = ssl.PEM_cert_to_DER_cert(folder.read_credential().pem.decode())

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request."""
        target = request.url.raw_path.decode("ascii")
        request.headers.update(
            sign_request(
                request.method, target, request.content, key=self._key, certificate=self._certificate, now=time.time()
            )
        )
        yield request


def client_context(authority: str, route: Route, folder: SiteFolder | None) -> ssl.SSLContext:
    """Return the hospital's side of TLS.

    Args:
        authority: The federation's authority (PEM), which was pinned.
        route: The way to the gateway.
        folder: Whose credential is shown; None before there is one.

    Raises:
        StorageError: If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if route.authority_file is not None:
            context.load_verify_locations(route.authority_file)
        else:
            context.load_verify_locations(cadata=authority)
        if folder is not None and not route.signed:
            context.load_cert_chain(folder.credential, folder.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StorageError(
            f"a certificate or key cannot be used ({type(error).__name__}): is it there, in PEM?"
        ) from error
    return context


def httpx_settings(folder: SiteFolder, route: Route) -> dict[str, Any]:
    """Return what an httpx client (Prefect's, too) needs to be known at the gateway."""
    pinned = folder.read_federation()
    folder.read_keys()  # refuses keys that others may read
    settings: dict[str, Any] = {"verify": client_context(pinned.ca, route, folder)}
    return {**settings, "auth": SignedAuth(folder)} if route.signed else settings


class Wire:
    """Requests to one gateway.

    Args:
        address: ``https://HOST:PORT``.
        settings: Returns what httpx needs to be known there; asked again when the credential was renewed.
        route: The way to the gateway.
        folder: The site's folder; None before there is one.
    """

    def __init__(
        self, address: str, settings: Callable[[], dict[str, Any]], *, route: Route, folder: SiteFolder | None = None
    ) -> None:
        self._address, self._settings, self._route, self._folder = address, settings, route, folder
        self._client: httpx.Client | None = None
        self._stamp = 0

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def send(self, method: str, path: str, *, accept: Collection[int] = (), **content: Any) -> httpx.Response:
        """Send a request until it is answered, and return the answer, read.

        Args:
            method: ``GET``, ``PUT``, ...
            path: Path below the address.
            accept: Statuses that are answers and not errors, beside success.
            **content: As httpx takes it: ``json``, ``content``, ``params``, ``headers``.

        Raises:
            RefusedError: If the gateway refused.
            ServiceError: If it could not be reached for `Route.patience_s`.
        """
        for tries, patience in enumerate(self.attempts(), 1):
            with patience:
                response = self._open().request(method, path, **content)
                response.extensions[TRIES] = tries
                self.check(response, accept)
                return response
        raise ServiceError(f"the gateway {self._address} does not answer")

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Yield an answer that is read piece by piece; once, without patience."""
        with self._open().stream("GET", path, headers=headers) as response:
            if response.status_code >= 400:
                response.read()
            yield response

    def attempts(self, progress: Callable[[], int] = lambda: 0) -> Iterator[Attempt]:
        """Yield attempts with pauses between them, until one succeeds or patience ends; progress renews it."""
        pauses, reached = Pauses(self._route.patience_s), progress()
        while True:
            attempt = Attempt()
            yield attempt
            if attempt.failed is None:
                return
            if progress() != reached:
                pauses, reached = Pauses(self._route.patience_s), progress()
            if not attempt.again or not pauses.wait(attempt.wait_s):
                raise self._explain(attempt.failed) from attempt.failed

    def check(self, response: httpx.Response, accept: Collection[int] = ()) -> None:
        """Raise what an answer means that is none of success and of `accept`."""
        status = response.status_code
        if status < 300 or status in accept:
            return
        if status in _AGAIN:
            raise _AgainError(response)
        if status == 401:
            raise RefusedError(self._why_unknown())
        reason = _reason(response)
        what = _SAID.get(status, f"the gateway answered {status}")
        kind = ServiceError if status >= 500 else RefusedError
        raise kind(f"{what}{f' ({reason})' if reason else ''}")

    def _open(self) -> httpx.Client:
        """Return the client; a new one if the credential was renewed, by this process or another."""
        stamp = self._folder.credential.stat().st_mtime_ns if self._folder and self._folder.credential.exists() else 0
        if self._client is None or stamp != self._stamp:
            self.close()
            self._client = httpx.Client(base_url=self._address, timeout=_TIMEOUT, **self._settings())
            self._stamp = stamp
        return self._client

    def _why_unknown(self) -> str:
        """Say why this site is not let in: the gateway tells nobody, but much can be seen from here."""
        if self._folder is None:
            return f"the gateway does not accept this token: it was used, or has expired; {_ENROL_AGAIN}"
        credential = self._folder.read_credential()
        if datetime.now(UTC) > credential.not_after:
            return f"this hospital's credential expired on {credential.not_after:%Y-%m-%d %H:%M} UTC; {_ENROL_AGAIN}"
        skew_s = self._skew_s() if self._route.signed else 0.0
        if abs(skew_s) > WINDOW_S:
            return f"the clocks of gateway and hospital are {abs(skew_s):.0f} s apart: set this machine's clock (NTP)"
        return f"the gateway does not let this hospital in: it was revoked, or has left; {_ENROL_AGAIN}"

    def _skew_s(self) -> float:
        """Return by how much the clocks differ, 0 if that cannot be found out."""
        try:
            return float(self._open().get("/v1/health").json()["time"]) - time.time()
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return 0.0

    def _explain(self, error: Exception) -> WardRoundError:
        """Return one of our errors for one of httpx's."""
        text = str(error)
        if isinstance(error, _AgainError):
            return ServiceError(f"the gateway {self._address} answered {error.response.status_code} for "
                                f"{self._route.patience_s:.0f} s; try later, or ask its operator")  # fmt: skip
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return ServiceError(
                f"{self._address} shows a certificate that is not this federation's: if this network inspects TLS, "
                "name its authority's file (and use signed requests); else do not go on, and tell the operator"
            )
        if "alert" in text.lower() and "certificate" in text.lower():
            return RefusedError(self._why_unknown())
        if isinstance(error, httpx.ProxyError):
            return ServiceError(f"the proxy of HTTPS_PROXY does not let us through ({text[:100]}): check its address")
        if isinstance(error, httpx.HTTPError):
            return ServiceError(
                f"the gateway {self._address} cannot be reached ({type(error).__name__}): check the network, "
                "HTTPS_PROXY, and that the gateway runs"
            )
        raise error


class _AgainError(Exception):
    """An answer that says: later."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(str(response.status_code))
        self.response = response


class Attempt:
    """One attempt; a context that notes what went wrong where trying again may help."""

    def __init__(self) -> None:
        self.failed: Exception | None = None
        self.again = False
        self.wait_s = 0.0

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, httpx.TransportError | _AgainError):
            return False
        self.failed, self.again = error, not _is_final(error)
        if isinstance(error, _AgainError):
            stated = error.response.headers.get("retry-after", "")
            self.wait_s = float(stated) if stated.isdigit() and len(stated) < 4 else 0.0
        return True


class Pauses:
    """Pauses that grow, each drawn at random, so that a crowd does not come back at once (full jitter).

    Args:
        patience_s: How long all of it may take.
    """

    def __init__(self, patience_s: float) -> None:
        self._end = time.monotonic() + patience_s
        self._longest = _FIRST_S
        self._random = random.Random()  # noqa: S311 - nothing secret

    def wait(self, at_least_s: float = 0.0) -> bool:
        """Pause, and return whether there is time for another attempt."""
        pause_s = at_least_s + self._random.uniform(0, self._longest)
        self._longest = min(_LONGEST_S, 2 * self._longest)
        if time.monotonic() + pause_s > self._end:
            return False
        time.sleep(pause_s)
        return True


def _is_final(error: Exception) -> bool:
    """Return whether trying again cannot help: TLS refused one of the certificates, or the proxy us."""
    text = str(error).lower()
    refused = "certificate_verify_failed" in text or ("alert" in text and "certificate" in text)
    return refused or isinstance(error, httpx.ProxyError | httpx.UnsupportedProtocol)


def _reason(response: httpx.Response) -> str:
    """Return what the gateway said beside its few words."""
    try:
        said = response.json()
    except ValueError:
        return ""
    return str(said.get("reason", ""))[:300] if isinstance(said, dict) else ""
