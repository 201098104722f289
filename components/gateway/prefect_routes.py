"""What a hospital's Prefect worker may ask of Prefect: a closed table, each route with its own check.

A site's work pool has the site's name, and a worker may touch what belongs to that pool: the pool itself, the
deployments that send work there, and their runs, whose pool is looked up in Prefect each time. Bodies are written
anew from what was checked: a state is a type, a name and a line of text, never data, and nothing else of a run can
be changed. So whatever a worker sends, Prefect gets one of a few forms.

Everything else that Prefect's server has is denied: logs, events, variables, blocks, artifacts, automations, other
ways to list or change runs, administration, and its websockets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from components.gateway.prefect_proxy import Fetch, PrefectRoute

AHEAD_S = 60.0  # longer than a poll is held: work that is ordered meanwhile is due, too
HEARTBEAT_S = 30
MESSAGE_CHARACTERS = 1000
STATES = frozenset({
    ("PENDING", "Pending"), ("RUNNING", "Running"), ("COMPLETED", "Completed"),
    ("FAILED", "Failed"), ("FAILED", "Refused"), ("CRASHED", "Crashed"),
})  # fmt: skip
_ENDED = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", flags=re.ASCII)


async def read_pool(site: str, parts: Mapping[str, str], body: Any, fetch: Fetch) -> bool:
    """Let a site read its own pool."""
    return body is None and parts["name"] == site


async def poll(site: str, parts: Mapping[str, str], body: Any, fetch: Fetch) -> bool:
    """Let a site ask for the runs of its own pool that are due, by the gateway's clock."""
    due = datetime.now(UTC) + timedelta(seconds=AHEAD_S)
    return parts["name"] == site and _rewrite(body, {"scheduled_before": due.isoformat()})


async def beat(site: str, parts: Mapping[str, str], body: Any, fetch: Fetch) -> bool:
    """Let a site say that its worker is alive; the worker has the site's name."""
    return parts["name"] == site and _rewrite(body, {"name": site, "heartbeat_interval_seconds": HEARTBEAT_S})


async def read_deployment(site: str, parts: Mapping[str, str], body: Any, fetch: Fetch) -> bool:
    """Let a site read a deployment that sends work to its own pool."""
    return body is None and await _find("deployments", parts["id"], site, fetch) is not None


async def propose_state(site: str, parts: Mapping[str, str], body: Any, fetch: Fetch) -> bool:
    """Let a site move its own run forward, through the states a worker needs; what has ended stays as it is."""
    run = await _find("flow_runs", parts["id"], site, fetch)
    if run is None or not isinstance(body, dict) or body.get("force") is True:
        return False
    state = body["state"]
    if (state["type"], state["name"]) not in STATES:
        return False
    # The same again may be the repetition of a request whose answer was lost; Prefect knows it by its transition.
    if run["state_type"] in _ENDED and run["state_type"] != state["type"]:
        return False
    return _rewrite(body, {"state": _plain_state(state), "force": False})


ROUTES = (
    PrefectRoute("GET", "/work_pools/{name}", read_pool),
    PrefectRoute("POST", "/work_pools/{name}/get_scheduled_flow_runs", poll, held=True),
    PrefectRoute("POST", "/work_pools/{name}/workers/heartbeat", beat),
    PrefectRoute("GET", "/deployments/{id}", read_deployment),
    PrefectRoute("POST", "/flow_runs/{id}/set_state", propose_state),
)


async def _find(kind: str, identifier: str, site: str, fetch: Fetch) -> Mapping[str, Any] | None:
    """Return an object of Prefect's that belongs to a site's pool; None if there is none, or it is another's."""
    if not _ID.fullmatch(identifier):
        return None
    found = await fetch(f"/{kind}/{identifier}")
    return found if found is not None and found["work_pool_name"] == site else None


def _plain_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is passed on of a state: no data, no result, no times, no other details."""
    message, transition = state.get("message"), (state.get("state_details") or {}).get("transition_id")
    plain = {"type": state["type"], "name": state["name"]}
    if isinstance(message, str):
        plain["message"] = message[:MESSAGE_CHARACTERS]
    if isinstance(transition, str) and _ID.fullmatch(transition):
        return {**plain, "state_details": {"transition_id": transition}}
    return plain


def _rewrite(body: Any, fields: Mapping[str, Any]) -> bool:
    """Make these the only fields of a body, which the proxy then passes on; False if it is no object."""
    if not isinstance(body, dict):
        return False
    body.clear()
    body.update(fields)
    return True
