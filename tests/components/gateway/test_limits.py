"""What nobody may do to the gateway: too much, too fast, too slowly, in too strange a way."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from components.gateway.limits import Buckets, Limits
from components.gateway.transport import Route, client_context
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Build, Gate, until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def strict(build: Build) -> Gate:
    """A gateway of little patience."""
    limits = Limits(header_s=0.5, body_grace_s=0.5, connections=20, connections_per_address=10)
    return build(limits=limits)


@pytest.fixture(scope="module")
def member(strict: Gate) -> SiteFolder:
    return strict.enrol("member")


def connect(gate: Gate, folder: SiteFolder | None = None, *, at: str = "127.0.0.1") -> ssl.SSLSocket:
    context = client_context(gate.secrets.authority.pem.decode(), Route(), folder)
    plain = socket.create_connection(("127.0.0.1", gate.running.port), timeout=60, source_address=(at, 0))
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def answer(gate: Gate, request: bytes, folder: SiteFolder | None = None) -> bytes:
    """Send raw bytes and return all that comes back until the gateway hangs up."""
    with closing(connect(gate, folder)) as connection:
        connection.sendall(request)
        return b"".join(received(connection))


def received(connection: ssl.SSLSocket) -> Iterator[bytes]:
    try:
        while data := connection.recv(65536):
            yield data
    except (ConnectionError, ssl.SSLError):
        return


def put(slot: str, length: int, more: bytes = b"") -> bytes:
    head = f"PUT /v1/slots/{slot}/upload?offset=0 HTTP/1.1\r\nHost: g\r\nContent-Length: {length}\r\n".encode()
    return head + more + b"\r\n"


def test_slow_headers_are_hung_up_on(strict: Gate) -> None:
    began = time.monotonic()
    assert answer(strict, b"GET /v1/health HTTP/1.1\r\nHost:") == b""
    assert answer(strict, b"") == b""
    assert 1.0 <= time.monotonic() - began < 10


def test_slow_headers_of_a_second_request_are_hung_up_on(strict: Gate) -> None:
    found = answer(strict, b"GET /v1/health HTTP/1.1\r\nHost: g\r\n\r\nGET /v1/hea")
    assert found.startswith(b"HTTP/1.1 200")
    assert found.count(b"HTTP/1.1") == 1


def test_slow_headers_on_an_idle_connection_are_hung_up_on(strict: Gate) -> None:
    with closing(connect(strict)) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: g\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /v1/hea")
        assert b"HTTP/1.1" not in b"".join(received(connection))


def test_a_slow_body_is_hung_up_on(strict: Gate, member: SiteFolder) -> None:
    found = answer(strict, put(str(strict.open_slot("member").folder), 1000), member)
    assert found.startswith(b"HTTP/1.1 408")


def test_a_body_is_refused_by_its_stated_length_before_it_is_read(strict: Gate, member: SiteFolder) -> None:
    slot = str(strict.open_slot("member", max_bytes=1 << 40).folder)
    assert answer(strict, put(slot, 1 << 40), member).startswith(b"HTTP/1.1 413")
    small = str(strict.open_slot("member", max_bytes=10, round_number=2).folder)
    assert answer(strict, put(small, 11), member).startswith(b"HTTP/1.1 413")
    enrol = b"POST /v1/enrol HTTP/1.1\r\nHost: g\r\nContent-Length: 999999999\r\n\r\n"
    assert answer(strict, enrol).startswith(b"HTTP/1.1 413")
    assert answer(strict, put(slot, 1 << 40)).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/health HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"GET /v1/health HTTP/1.1\r\nHost: g\r\nX: 1\r\nX: 2\r\nConnection: close\r\n\r\n", 400),
        (b"GET /v1/%68ealth HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n", 400),
        (b"GET /v1/health\\.. HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n", 400),
        (b"GET http://g/v1/health HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n", 400),
        (b"GET /v1/health HTTP/1.1\r\nHost: g\r\nConnection: close\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /v1/health HTTP/1.1\r\nHost: g\r\nConnection: close\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(80))
         + b"\r\n", 431),
        (b"POST /v1/enrol HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_strange_requests_are_refused(strict: Gate, request_bytes: bytes, status: int) -> None:
    assert answer(strict, request_bytes).startswith(b"HTTP/1.1 %d" % status)


def test_endless_headers_are_refused(strict: Gate) -> None:
    with closing(connect(strict)) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: g\r\nX: ")
        try:
            for _ in range(2000):
                connection.sendall(b"y" * 1000)
        except (ConnectionError, ssl.SSLError):
            return
        assert b"".join(received(connection)).startswith(b"HTTP/1.1 400")


def test_one_address_has_so_many_connections_and_no_more(strict: Gate) -> None:
    held = [connect(strict) for _ in range(10)]
    try:
        assert answer(strict, b"GET /v1/health HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n") == b""
    finally:
        for connection in held:
            connection.close()
    ask = b"GET /v1/health HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
    assert until(lambda: answer(strict, ask).startswith(b"HTTP/1.1 200"))


def test_slow_connections_of_one_address_leave_room_for_the_others(build: Build) -> None:
    """As many as one address may have, each with half a request."""
    gate = build(limits=Limits(header_s=120, connections_per_address=64))
    ask = b"GET /v1/health HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
    with ExitStack() as slow:
        for _ in range(64):
            slow.enter_context(closing(connect(gate))).sendall(b"GET /v1/health HTTP/1.1\r\nHost:")
        assert answer(gate, ask) == b""
        elsewhere = slow.enter_context(closing(connect(gate, at="127.0.0.2")))
        elsewhere.sendall(ask)
        assert b"".join(received(elsewhere)).startswith(b"HTTP/1.1 200")


def test_a_stranger_is_slowed_down_and_a_member_is_not(build: Build) -> None:
    gate = build(limits=Limits(open_per_s=0.01, open_burst=5))
    folder = gate.enrol("patient")
    with gate.http(None) as stranger, gate.http(folder) as known:
        statuses = [stranger.get("/v1/federation").status_code for _ in range(6)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        assert known.get("/v1/federation").status_code == 200


def test_a_site_has_so_many_requests_and_no_more(build: Build) -> None:
    gate = build(limits=Limits(site_per_s=0.01, site_burst=3))
    with gate.http(gate.enrol("eager")) as client:
        answers = [client.get("/v1/federation") for _ in range(4)]
    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) > 1


def test_buckets_forget_the_idlest_and_stay_small() -> None:
    buckets = Buckets(1.0, 1, clock=lambda: 0.0, size=2)
    assert [buckets.take(name) for name in "abca"] == [0.0, 0.0, 0.0, 0.0]
    assert buckets.take("c") > 0
