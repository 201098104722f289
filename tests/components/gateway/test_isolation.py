"""What is one hospital's is nobody else's: every route there is, with the real objects of another site.

A real gateway with TLS before a real Prefect server. South has a work pool, a deployment, a run, an open slot with
half an update in it, a request that waits for it, and weights that were granted to it; north asks for all of it, on
every live route, in both ways of showing a credential. Then everybody who is nobody asks, on every route.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from components.exchange.keys import TlsKey
from components.gateway.limits import Limits
from components.gateway.prefect_proxy import PREFIX
from components.gateway.prefect_routes import ROUTES
from components.gateway.records import SlotKey
from components.gateway.refusals import WORDS
from components.gateway.slots import SealedSlots
from components.governance.certificates import issue_credential, make_authority, make_csr
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Build, Gate
from tests.components.gateway.test_prefect_routes import Prefect, live, prefect

__all__ = ["live", "prefect"]  # fixtures: every route of the installed Prefect server, and a server with work
pytestmark = pytest.mark.timeout(120)
PLENTY = Limits(
    site_per_s=5000, site_burst=5000, address_per_s=5000, address_burst=5000, open_per_s=5000, open_burst=5000
)
CONTENT, HALF, REQUEST = b"weights of south", b"half an update", "a request of south's"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
# What the gateway has itself, by what a request says whose it is: nothing (it is the caller's own), or a name in it.
OPEN = {"GET /v1/health", "GET /v1/authority", "POST /v1/enrol"}
ONE_S_OWN = {"GET /v1/work", "POST /v1/renew", "GET /v1/federation", "POST /v1/doctor", "POST /v1/heartbeat"}
NAMED = {
    "GET /v1/objects/{digest}", "HEAD /v1/objects/{digest}",
    "GET /v1/slots/{training}/{round}/{attempt}/{kind}/{site}/upload",
    "PUT /v1/slots/{training}/{round}/{attempt}/{kind}/{site}/upload",
    "POST /v1/slots/{training}/{round}/{attempt}/{kind}/{site}/submit",
}  # fmt: skip


@dataclass(frozen=True)
class Souths:
    """What south has."""

    gate: Gate
    prefect: Prefect
    run: str
    parts: dict[str, str]

    def state(self) -> dict[str, Any]:
        """Return all of it that somebody else might have changed."""
        run = self.prefect.run(self.run)
        pool = self.prefect.api.get("/work_pools/south").json()
        deployment = self.prefect.api.get(f"/deployments/{self.prefect.deployments['south']}").json()
        site = self.gate.sites.get("south")
        return {
            "run": {field: run[field] for field in ("state_id", "parameters", "labels", "tags", "name")},
            "pool": {field: pool[field] for field in ("id", "base_job_template", "is_paused", "description")},
            "workers": self.prefect.post("/work_pools/south/workers/filter", {}),
            "deployment": {field: deployment[field] for field in ("paused", "parameters", "description", "schedules")},
            "slot": self.payload.read_bytes(),
            "site": site and (site.status, site.activity, site.doctor, site.signing_key, site.not_after),
        }

    @property
    def payload(self) -> Path:
        """Where the half of south's update is."""
        slot = SlotKey(training="chest-1", round=1, attempt=1, site="south")
        return SealedSlots(self.gate.exchange / "sealed").payload(slot)


@pytest.fixture(scope="module")
def gate(build: Build, prefect: Prefect) -> Gate:
    return build(ROUTES, prefect_url=str(prefect.api.base_url), hold_s=0.0, limits=PLENTY)


@pytest.fixture(scope="module")
def souths(gate: Gate, prefect: Prefect) -> Souths:
    folder = gate.enrol("south")
    gate.put_object(DIGEST, CONTENT)
    gate.grants.allow(DIGEST, ["south"])
    slot = gate.open_slot("south")
    gate.grants.open_slot(slot, max_bytes=1 << 20, request=REQUEST)
    with gate.http(folder) as client:
        assert client.get(f"/v1/objects/{DIGEST}").content == CONTENT
        assert REQUEST in client.get("/v1/work").text
        assert client.put(f"/v1/slots/{slot.folder}/upload", params={"offset": "0"}, content=HALF).is_success
        client.post("/v1/heartbeat", json={"version": "1", "activity": {"state": "train"}}).raise_for_status()
    names = ("training", "round", "attempt", "kind", "site")
    parts = {"digest": DIGEST, **dict(zip(names, slot.folder.parts, strict=True))}
    return Souths(gate, prefect, prefect.order("south"), parts)


@pytest.fixture(scope="module")
def north(gate: Gate) -> SiteFolder:
    return gate.enrol("north")


def own_routes(gate: Gate) -> set[str]:
    """Return every route that this gateway has itself, as it runs."""
    inner = gate.running.server._gateway.app._app
    found = {
        f"{method} {route.path}"
        for route in inner.routes
        for method in route.methods
        if not route.path.startswith(PREFIX)
    }
    return {name for name in found if not name.startswith("HEAD") or "objects" in name}  # HEAD is GET's, elsewhere


def filled(path: str, parts: dict[str, str]) -> str:
    return re.sub(r"{(\w+)}", lambda found: parts[found[1]], path)


def of_south(souths: Souths, path: str) -> str:
    """Put the identifiers of south's objects into one of Prefect's paths."""
    kind = path.split("/")[1]
    chosen = {"work_pools": "south", "deployments": souths.prefect.deployments["south"]}.get(kind, souths.run)
    return path.replace("{}", chosen)


def test_it_is_decided_of_every_route_of_the_gateway_whose_it_is(gate: Gate) -> None:
    """A route that is added fails here, until somebody says whose objects it is about."""
    assert own_routes(gate) == OPEN | ONE_S_OWN | NAMED


@pytest.mark.parametrize("signed", [False, True])
def test_no_live_route_of_prefect_gives_north_anything_of_south_s(
    souths: Souths, north: SiteFolder, live: set[str], signed: bool
) -> None:
    before, answers = souths.state(), {}
    with souths.gate.http(north, signed=signed) as client:
        for name in sorted(live):
            method, path = name.split()
            if method in ("MOUNT", "WEBSOCKET"):
                continue
            answer = client.request(method, PREFIX + of_south(souths, path), json={"state": {"type": "CANCELLED"}})
            answers[name] = (answer.status_code, "" if method == "HEAD" else answer.text)
    assert len(answers) > 150
    allowed = (403, '{"error":"this is not allowed"}')
    assert {name: said for name, said in answers.items() if said not in (allowed, (403, ""))} == {}
    assert souths.state() == before


@pytest.mark.parametrize("signed", [False, True])
def test_no_route_of_the_gateway_gives_north_anything_of_south_s(
    souths: Souths, north: SiteFolder, signed: bool
) -> None:
    before = souths.state()
    absent = {**souths.parts, "digest": "0" * 64, "training": "chest-9"}
    with souths.gate.http(north, signed=signed) as client:
        for name in sorted(NAMED):
            method, path = name.split()
            asked = {"params": {"offset": "0"}, "content": b"x"} if method == "PUT" else {}
            theirs, nothing = (client.request(method, filled(path, parts), **asked) for parts in (souths.parts, absent))
            assert (theirs.status_code, theirs.text) == (nothing.status_code, nothing.text) == (404, theirs.text), name
        assert REQUEST not in client.get("/v1/work").text
        assert client.get("/v1/work", params={"site": "south"}).status_code == 400
        own = {"version": "1", "activity": {"site": "south", "state": "north's"}, "site": "south"}
        client.post("/v1/heartbeat", json=own)
        csr = make_csr(TlsKey.load(north.tls_key), "south").decode()
        assert client.post("/v1/renew", json={"protocol": 1, "csr": csr}).status_code == 400
    assert souths.state() == before


def nobody(gate: Gate, folder: SiteFolder) -> httpx.Client:
    return gate.http(None)


def expired(gate: Gate, folder: SiteFolder) -> httpx.Client:
    return gate.http(with_credential(gate, folder, "south", at=datetime.now(UTC) - timedelta(days=30)), signed=True)


def revoked(gate: Gate, folder: SiteFolder) -> httpx.Client:
    made = gate.enrol("leaver")
    gate.sites.revoke("leaver")
    return gate.http(made, signed=True)


def unknown(gate: Gate, folder: SiteFolder) -> httpx.Client:
    """A credential by this authority for a site that never enrolled."""
    return gate.http(with_credential(gate, folder, "stranger"), signed=True)


def another_authority_s(gate: Gate, folder: SiteFolder) -> httpx.Client:
    return gate.http(with_credential(gate, folder, "south", other=True), signed=True)


def with_credential(
    gate: Gate, folder: SiteFolder, site: str, *, at: datetime | None = None, other: bool = False
) -> SiteFolder:
    """Make a folder with keys and a credential that opens no door."""
    authority = make_authority("ward", folder.state / "other") if other else gate.secrets.authority
    keys = folder.make_keys()
    folder.write_credential(issue_credential(authority, make_csr(keys.tls, site), site=site, at=at).pem)
    folder.write_federation(SiteFolder(gate.folder / "sites" / "south").read_federation())
    return folder


@pytest.mark.parametrize("who", [nobody, expired, revoked, unknown, another_authority_s])
def test_who_is_nobody_gets_one_answer_on_every_route(
    souths: Souths, tmp_path: Path, who: Callable[[Gate, SiteFolder], httpx.Client]
) -> None:
    before, answers = souths.state(), {}
    with who(souths.gate, SiteFolder(tmp_path)) as client:
        assert isinstance(client._transport, httpx.HTTPTransport)
        for name in sorted((own_routes(souths.gate) - OPEN) | {f"{r.method} {r.path}" for r in ROUTES}):
            method, path = name.split()
            own = path.startswith("/v1")
            where = filled(path, souths.parts) if own else PREFIX + of_south(souths, re.sub("{[^}]*}", "{}", path))
            answer = client.request(method, where, content=json.dumps({}).encode())
            answers[name] = (answer.status_code, "" if method == "HEAD" else answer.json())
    assert len(answers) == len(ONE_S_OWN | NAMED) + len(ROUTES)
    assert {name: said for name, said in answers.items() if said not in ((401, {"error": WORDS[401]}), (401, ""))} == {}
    assert souths.state() == before


def test_tls_itself_ends_for_a_certificate_of_another_authority(souths: Souths, tmp_path: Path) -> None:
    folder = with_credential(souths.gate, SiteFolder(tmp_path), "south", other=True)
    with souths.gate.http(folder) as client, pytest.raises((httpx.TransportError, ssl.SSLError)):
        client.get("/v1/federation")
