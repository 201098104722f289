"""The proxy before a small server that says what came: only the table's routes, written anew, nothing of others."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from components.gateway import prefect_proxy
from components.gateway.prefect_proxy import PREFIX, Fetch, PrefectRoute
from components.gateway.transport import Route, client_context
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Build, Gate, until

pytestmark = pytest.mark.timeout(60)
POOLS = {"p-north": "north", "p-south": "south"}


class Upstream(BaseHTTPRequestHandler):
    """Stands where Prefect's server does: work pools by name, and whatever else says what came."""

    protocol_version = "HTTP/1.1"
    work: list[Any]
    seen: list[dict[str, Any]]

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        type(self).seen.append({"path": self.path, "headers": dict(self.headers), "body": body})
        last = self.path.rpartition("/")[2]
        if last in POOLS:
            self.say(200, {"pool": POOLS[last]})
        elif last == "work":
            self.say(200, type(self).work)
        elif last == "broken":
            self.say(500, {"exception": "south's secret"})
        elif last == "gone":
            self.say(404, {"detail": "no"})
        else:
            self.say(200, {"path": self.path})

    def say(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("set-cookie", "session=1")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    Upstream.work, Upstream.seen = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()
    thread.join()


async def own_pool(site: str, parts: Mapping[str, str], _body: Any, fetch: Fetch) -> bool:
    found = await fetch(f"/pools/{parts['name']}")
    return found is not None and found["pool"] == site


async def own_body(site: str, _parts: Mapping[str, str], body: Any, _fetch: Fetch) -> bool:
    return isinstance(body, dict) and body.get("site") == site


ROUTES = [
    PrefectRoute("GET", "/pools/{name}/read", own_pool, query=frozenset({"limit"})),
    PrefectRoute("POST", "/runs/{what}", own_body),
    PrefectRoute("POST", "/held/{what}", own_body, held=True),
]


@pytest.fixture(scope="module")
def proxied(build: Build, upstream: str) -> Gate:
    return build(ROUTES, prefect_url=upstream, prefect_auth="admin:pass", hold_s=8.0)


@pytest.fixture(scope="module")
def client(proxied: Gate) -> Iterator[httpx.Client]:
    with proxied.http(proxied.enrol("north")) as made:
        yield made


def test_what_is_one_s_own_is_let_through(client: httpx.Client) -> None:
    found = client.get(f"{PREFIX}/pools/p-north/read", params={"limit": "2"})
    assert (found.status_code, found.json()) == (200, {"path": "/api/pools/p-north/read?limit=2"})
    assert "set-cookie" not in found.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/pools/p-south/read"),
        ("GET", "/pools/p-nowhere/read"),
        ("GET", "/pools/p-north/read?offset=1"),
        ("POST", "/pools/p-north/read"),
        ("DELETE", "/pools/p-north/read"),
        ("GET", "/pools/p-north/read/"),
        ("GET", "/pools/p-north/more"),
        ("GET", "/admin/settings"),
        ("GET", "//pools/p-north/read"),
        ("GET", "/pools/p-south@p-north/read"),
        ("GET", ""),
        ("OPTIONS", "/pools/p-north/read"),
    ],
)
def test_everything_else_is_one_refusal(client: httpx.Client, method: str, path: str) -> None:
    found = client.request(method, f"https://{client.base_url.host}:{client.base_url.port}{PREFIX}{path}")
    assert (found.status_code, found.text) == (403, '{"error":"this is not allowed"}')


@pytest.mark.parametrize("path", ["/pools/../pools/p-north/read", "/pools/./p-north/read", "/pools/p-north/read;x"])
def test_a_path_that_another_program_might_shorten_is_refused(proxied: Gate, client: httpx.Client, path: str) -> None:
    context = client_context(
        proxied.secrets.authority.pem.decode(), Route(), SiteFolder(proxied.folder / "sites/north")
    )
    plain = HTTPSConnection("127.0.0.1", proxied.running.port, context=context, timeout=60)
    plain.request("GET", PREFIX + path)  # as it stands; httpx would shorten it
    assert plain.getresponse().status == 403
    plain.close()


def test_what_is_passed_on_is_what_was_checked(client: httpx.Client) -> None:
    Upstream.seen.clear()
    sent = {"Authorization": "Bearer mine", "Cookie": "a=b", "X-Prefect-Thing": "1", "X-Forwarded-For": "::1"}
    found = client.post(f"{PREFIX}/runs/x", content=b' {"site" :"north"} ', headers=sent)
    assert found.status_code == 200
    (seen,) = Upstream.seen
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert seen["body"].replace(b" ", b"") == b'{"site":"north"}'
    assert headers["authorization"].startswith("Basic ")
    assert not {"cookie", "x-prefect-thing", "x-forwarded-for"} & set(headers)


@pytest.mark.parametrize(
    "body", [b'{"site":"south","site":"north"}', b'{"site":"north","x":NaN}', b"[" * 100_000, b"\xff", b'{"site"']
)
def test_a_body_of_more_than_one_reading_is_refused(client: httpx.Client, body: bytes) -> None:
    Upstream.seen.clear()
    assert client.post(f"{PREFIX}/runs/x", content=body).status_code == 400
    assert Upstream.seen == []


def test_another_s_body_is_refused(client: httpx.Client) -> None:
    assert client.post(f"{PREFIX}/runs/x", json={"site": "south"}).status_code == 403
    assert client.post(f"{PREFIX}/runs/x").status_code == 403


def test_what_the_server_says_when_it_fails_stays_behind_the_door(client: httpx.Client) -> None:
    broken = client.post(f"{PREFIX}/runs/broken", json={"site": "north"})
    assert (broken.status_code, "secret" in broken.text) == (502, False)
    assert client.post(f"{PREFIX}/runs/gone", json={"site": "north"}).status_code == 404


def test_a_server_that_is_away_is_later(build: Build) -> None:
    gate = build(ROUTES, prefect_url="http://127.0.0.1:9/api")
    with gate.http(gate.enrol("away")) as client:
        assert client.post(f"{PREFIX}/runs/x", json={"site": "away"}).status_code == 503


def test_a_question_is_held_until_there_is_work(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_proxy, "_ASK_AGAIN_S", 0.2)
    Upstream.work = []
    Upstream.seen.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, f"{PREFIX}/held/work", json={"site": "north"}, timeout=60)
        until(lambda: len(Upstream.seen) > 1)
        Upstream.work = [{"run": 1}]
        assert asked.result(10).json() == [{"run": 1}]


def test_a_gateway_that_ends_lets_everybody_go(build: Build, upstream: str) -> None:
    gate = build(ROUTES, prefect_url=upstream, hold_s=40.0)
    Upstream.work = []
    folder: SiteFolder = gate.enrol("waiting")
    Upstream.seen.clear()
    with gate.http(folder) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, f"{PREFIX}/held/work", json={"site": "waiting"}, timeout=50)
        until(lambda: Upstream.seen)
        began = time.monotonic()
        gate.running.stop()
        assert asked.result(10).json() == []
    assert time.monotonic() - began < 20, "it waited for as long as a poll is held"
