"""The table of what a worker may ask of Prefect, on a real gateway before a real Prefect server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.routing import compile_path

from components.gateway.prefect_proxy import PREFIX
from components.gateway.prefect_routes import HEARTBEAT_S, MESSAGE_CHARACTERS, ROUTES, STATES
from flows.embedded_prefect import server_environment
from flows.servers import EmbeddedPrefect
from tests.components.gateway.gates import Build, Gate

pytestmark = pytest.mark.timeout(120)
REFUSED = (403, '{"error":"this is not allowed"}')
DENIED = Path(__file__).with_name("denied_prefect_routes.txt")


@dataclass
class Prefect:
    """Prefect as the coordinator has it, with work for two sites."""

    api: httpx.Client
    deployments: dict[str, str]

    def order(self, site: str) -> str:
        """Order a run, and return its identifier."""
        body = {"parameters": {"request": {"kind": "prepare"}}, "state": {"type": "SCHEDULED", "name": "Scheduled"}}
        return str(self.post(f"/deployments/{self.deployments[site]}/create_flow_run", body)["id"])

    def run(self, identifier: str) -> Any:
        return self.api.get(f"/flow_runs/{identifier}").raise_for_status().json()

    def post(self, path: str, body: Any) -> Any:
        return self.api.post(path, json=body).raise_for_status().json()


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    with EmbeddedPrefect.start(tmp_path_factory.mktemp("prefect"), ui=False) as server:
        server.wait_ready()
        with httpx.Client(base_url=server.api_url, timeout=30) as api:
            made = Prefect(api, {})
            flow = made.post("/flows/", {"name": "site"})["id"]
            for site in ("north", "south"):
                made.post("/work_pools/", {"name": site, "type": "hospital"})
                deployment = {"name": site, "flow_id": flow, "work_pool_name": site}
                made.deployments[site] = made.post("/deployments/", deployment)["id"]
            yield made


@pytest.fixture(scope="module")
def door(build: Build, prefect: Prefect) -> Gate:
    return build(ROUTES, prefect_url=str(prefect.api.base_url), hold_s=0.0)


@pytest.fixture(scope="module")
def north(door: Gate) -> Iterator[httpx.Client]:
    """A client with north's credential."""
    with door.http(door.enrol("north")) as client:
        client.base_url = client.base_url.join(PREFIX)
        yield client


def requests_of(pool: str, deployment: str, run: str) -> dict[str, dict[str, Any]]:
    """Return a proper request for every route of the table."""
    parts = {"/work_pools": ("name", pool), "/deployments": ("id", deployment), "/flow_runs": ("id", run)}
    bodies = {
        "get_scheduled_flow_runs": {"work_queue_names": [], "scheduled_before": "2030-01-01T00:00:00Z"},
        "heartbeat": {"name": "a host's name", "heartbeat_interval_seconds": 30},
        "set_state": {"state": {"type": "PENDING", "name": "Pending"}, "force": False},
    }
    made = {}
    for route in ROUTES:
        name, value = parts["/" + route.path.split("/")[1]]
        last = route.path.rpartition("/")[2]
        body = {} if route.method == "GET" else {"json": bodies[last]}
        url = route.path.replace(f"{{{name}}}", value)
        made[f"{route.method} {route.path}"] = {"method": route.method, "url": url, **body}
    return made


NAMES = [f"{route.method} {route.path}" for route in ROUTES]


@pytest.mark.parametrize("name", NAMES)
def test_a_site_may_use_every_route_of_the_table_for_its_own(prefect: Prefect, north: httpx.Client, name: str) -> None:
    own = requests_of("north", prefect.deployments["north"], prefect.order("north"))[name]
    assert north.request(**own).is_success


@pytest.mark.parametrize("name", NAMES)
def test_another_s_objects_and_none_at_all_are_one_refusal(prefect: Prefect, north: httpx.Client, name: str) -> None:
    run = prefect.order("south")
    before = prefect.run(run)
    theirs = requests_of("south", prefect.deployments["south"], run)[name]
    nothing = requests_of("nowhere", str(uuid4()), str(uuid4()))[name]
    answers = [north.request(**asked) for asked in (theirs, nothing)]
    assert [(answer.status_code, answer.text) for answer in answers] == [REFUSED, REFUSED]
    assert answers[0].headers.keys() == answers[1].headers.keys()
    unchanged = ("state_id", "labels", "infrastructure_pid", "parameters")
    assert [prefect.run(run)[field] for field in unchanged] == [before[field] for field in unchanged]


@pytest.mark.parametrize("shape", [str.upper, lambda run: run.replace("-", ""), lambda run: f"urn:uuid:{run}"])
def test_a_run_has_one_name(prefect: Prefect, north: httpx.Client, shape: Any) -> None:
    own = requests_of("north", "", shape(prefect.order("north")))["POST /flow_runs/{id}/set_state"]
    assert (north.request(**own).status_code, REFUSED[0]) == (403, 403)


def test_a_poll_brings_one_s_own_work_only(prefect: Prefect, north: httpx.Client) -> None:
    mine, theirs = prefect.order("north"), prefect.order("south")
    queues = {"work_queue_names": ["default"], "scheduled_before": "2030-01-01T00:00:00Z"}
    found = north.post("/work_pools/north/get_scheduled_flow_runs", json=queues).json()
    runs = [entry["flow_run"]["id"] for entry in found]
    assert (mine in runs, theirs in runs) == (True, False)


def test_a_poll_does_not_go_by_the_hospital_s_clock(prefect: Prefect, north: httpx.Client) -> None:
    late = prefect.order("north")
    asked = {"scheduled_before": "2001-01-01T00:00:00Z", "scheduled_after": "2001-01-01T00:00:00Z", "limit": 0}
    found = north.post("/work_pools/north/get_scheduled_flow_runs", json=asked).json()
    assert late in [entry["flow_run"]["id"] for entry in found]


@pytest.mark.parametrize(("kind", "name"), sorted(STATES))
def test_a_state_arrives_as_a_type_a_name_and_a_line(
    prefect: Prefect, north: httpx.Client, kind: str, name: str
) -> None:
    run, transition = prefect.order("north"), str(uuid4())
    details = {"transition_id": transition, "scheduled_time": "2001-01-01T00:00:00Z", "cache_key": "k", "retriable": 1}
    pickled = {"type": "cloudpickle", "data": "gASVAAAAAAAAAAA="}
    state = {"type": kind, "name": name, "message": "m" * 9999, "data": pickled, "timestamp": "2001-01-01T00:00:00Z"}
    body = {"state": {**state, "state_details": details}, "force": False, "parameters": {"x": 1}}
    assert north.post(f"/flow_runs/{run}/set_state", json=body).json()["status"] == "ACCEPT"
    found = prefect.run(run)
    state = found["state"]
    assert (state["type"], state["name"], state["message"]) == (kind, name, "m" * MESSAGE_CHARACTERS)
    assert state["data"] is None
    assert state["state_details"]["transition_id"] == transition
    assert [state["state_details"][name] for name in ("cache_key", "retriable")] == [None, None]
    assert "2001-" not in str(state)
    assert found["parameters"] == {"request": {"kind": "prepare"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"state": {"type": "SCHEDULED", "name": "Scheduled"}},
        {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}},
        {"state": {"type": "PAUSED", "name": "Paused"}},
        {"state": {"type": "PAUSED", "name": "Suspended"}},
        {"state": {"type": "CANCELLED", "name": "Cancelled"}},
        {"state": {"type": "CANCELLING", "name": "Cancelling"}},
        {"state": {"type": "COMPLETED", "name": "Cached"}},
        {"state": {"type": "FAILED", "name": "Completed"}},
        {"state": {"type": "PENDING"}},
        {"state": {"type": ["PENDING"], "name": "Pending"}},
        {"state": "Pending"},
        {"state": None},
        {"force": True},
    ],
)
def test_a_state_that_no_worker_needs_is_refused(prefect: Prefect, north: httpx.Client, changes: Any) -> None:
    run = prefect.order("north")
    body = {"state": {"type": "PENDING", "name": "Pending"}, "force": False, **changes}
    answer = north.post(f"/flow_runs/{run}/set_state", json=body)
    assert (answer.status_code, answer.text) == REFUSED
    assert prefect.run(run)["state_type"] == "SCHEDULED"


def test_what_has_ended_stays_so(prefect: Prefect, north: httpx.Client) -> None:
    run, end = prefect.order("north"), {"state": {"type": "FAILED", "name": "Refused"}}
    path = f"/flow_runs/{run}/set_state"
    assert north.post(path, json=end).is_success
    for kind, name in (("PENDING", "Pending"), ("RUNNING", "Running"), ("COMPLETED", "Completed")):
        assert north.post(path, json={"state": {"type": kind, "name": name}}).status_code == 403
    assert north.post(path, json=end).is_success  # the answer to the first may have been lost
    assert prefect.run(run)["state_name"] == "Refused"


def test_a_worker_has_the_name_of_its_site(prefect: Prefect, north: httpx.Client) -> None:
    assert north.post("/work_pools/north/workers/heartbeat", json={"name": "host", "return_id": True}).is_success
    (worker,) = prefect.post("/work_pools/north/workers/filter", {})
    assert (worker["name"], worker["heartbeat_interval_seconds"]) == ("north", HEARTBEAT_S)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("GET")])
@pytest.mark.parametrize("body", [None, [], ["state"], "state", 1])
def test_a_body_that_is_no_object_is_refused(prefect: Prefect, north: httpx.Client, name: str, body: Any) -> None:
    own = requests_of("north", prefect.deployments["north"], prefect.order("north"))[name]
    answer = north.request(own["method"], own["url"], **({} if body is None else {"json": body}))
    assert (answer.status_code, answer.text) == REFUSED


def plain(path: str) -> str:
    return re.sub("{[^}]*}", "{}", path)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """All routes of the installed Prefect server, ``METHOD /path/{}``."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.components.gateway.live_prefect_routes"],
        env={**server_environment(tmp_path_factory.mktemp("live"), ui=False), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    return set(said.stdout.splitlines())


def decided() -> tuple[set[str], set[str]]:
    """Return what is allowed and what is denied."""
    denied = {
        f"{method} {path}"
        for path, *methods in (line.split() for line in DENIED.read_text().splitlines())
        for method in methods
    }
    return {f"{route.method} {plain(route.path)}" for route in ROUTES}, denied


def test_of_every_route_of_this_prefect_it_is_decided_whether_sites_may_use_it(live: set[str]) -> None:
    """An upgrade that brings a route fails here, until somebody allows it with a check, or denies it in the file."""
    allowed, denied = decided()
    assert not allowed & denied
    assert sorted(live - allowed - denied) == []
    assert sorted((allowed | denied) - live) == []


def test_the_walk_misses_no_route_that_the_server_describes(prefect: Prefect, live: set[str]) -> None:
    described = prefect.api.get("/openapi.json").json()["paths"]
    found = {f"{method.upper()} {plain(path)}" for path, methods in described.items() for method in methods}
    assert len(found) > 100
    assert {name.replace(" /api/", " /") for name in found} - live == set()


def test_no_denied_route_fits_an_allowed_one_s_template() -> None:
    """Prefect looks for its routes in its own order: a literal part must not be taken for a name."""
    for denied in decided()[1]:
        method, path = denied.split()
        for route in ROUTES:
            assert route.method != method or not compile_path(route.path)[0].fullmatch(path.replace("{}", "x")), denied


def test_a_denied_route_is_refused(door: Gate, north: httpx.Client, prefect: Prefect) -> None:
    run, answers = prefect.order("north"), set()
    for denied in sorted(decided()[1]):
        method, path = denied.split()
        if method not in ("MOUNT", "WEBSOCKET"):
            answer = north.request(method, path.replace("{}", run), json={})
            answers.add((answer.status_code, answer.text if method != "HEAD" else REFUSED[1]))
    assert answers == {REFUSED}


def test_a_websocket_is_not_taken(north: httpx.Client) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
               "sec-websocket-key": "MDEyMzQ1Njc4OWFiY2RlZg=="}  # fmt: skip
    for path in ("/events/in", "/work_pools/north/workers/connect"):
        assert north.get(path, headers=upgrade).status_code == 403
