"""The hospital's worker on a real Prefect server: it does its site's work and refuses whatever else a run carries."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from components.errors import RefusedError
from components.exchange.keys import SigningKey
from components.exchange.site_request import Call, SiteRequest, request_parameters, sign_call
from flows.closed_worker import EMPTY_TEMPLATE
from flows.hospital_worker import TYPE, HospitalWorker
from flows.prefect_settings import settings_for
from flows.servers import EmbeddedPrefect, prefect_environment
from tests.references.tiny_study import tiny_study

NONCE = "0123456789abcdef" * 2


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@dataclass
class Ward:
    """A site that notes what it is asked, in place of one that trains."""

    site: str = "north"
    asked: list[SiteRequest] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    async def carry_out(self, request: SiteRequest) -> str:
        self.asked.append(request)
        return "opened 12 items"

    def refused(self, run: str, reason: str) -> None:
        self.refusals.append(reason)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server, and this process's client turned to it."""
    home = tmp_path_factory.mktemp("prefect")
    with EmbeddedPrefect.start(home) as server:
        server.wait_ready()
        with settings_for(prefect_environment(server.api_url, home)):
            yield server.api_url


def parameters(site: str = "north") -> dict[str, Any]:
    study = tiny_study()
    call = Call(federation="ward", site=site, training="t", study_digest=study.digest, nonce=NONCE)
    signed = sign_call(call, SigningKey.generate())
    return request_parameters(SiteRequest(kind="prepare", site=site, training="t", study=study, call=signed))


async def make_pool(name: str, kind: str = TYPE) -> None:
    """Make a pool anew, one that the server lets anything be set in."""
    async with get_client() as client:
        with contextlib.suppress(ObjectNotFound):
            await client.delete_work_pool(name)
        await client.create_work_pool(WorkPoolCreate(name=name, type=kind))


async def set_template(name: str, template: dict[str, Any]) -> None:
    async with get_client() as client:
        await client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


async def order(pool: str, run: dict[str, Any] | None = None, **deployment: Any) -> UUID:
    """Make a deployment for a pool and a run of it, as somebody with the server's password could."""
    async with get_client() as client:
        flow = await client.create_flow_from_name("site-preparation")
        made = await client.create_deployment(flow, name=uuid4().hex, work_pool_name=pool, **deployment)
        ordered = {"parameters": parameters(), **(run or {})}
        return (await client.create_flow_run_from_deployment(made, **ordered)).id


async def work_once(ward: Ward, pool: str = "north") -> None:
    worker = HospitalWorker(work_pool_name=pool, create_pool_if_not_found=False)
    worker.work = ward
    await worker.start(run_once=True, printer=str)


async def read(run: UUID) -> FlowRun:
    async with get_client() as client:
        return await client.read_flow_run(run)


@in_loop
async def test_a_request_is_carried_out_and_its_run_completed(prefect: str) -> None:
    await make_pool("north")
    await set_template("north", EMPTY_TEMPLATE)
    run, ward = await order("north"), Ward()
    await work_once(ward)
    assert [request.kind for request in ward.asked] == ["prepare"]
    done = await read(run)
    assert (done.state_name, done.state and done.state.message) == ("Completed", "opened 12 items")


HOSTILE: dict[str, dict[str, Any]] = {
    "job variables of the deployment": {"job_variables": {"command": "touch {payload}"}},
    "job variables of the run": {"run": {"job_variables": {"env": {"PYTHONSTARTUP": "{payload}"}}}},
    "pull steps": {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch {payload}"}}]},
    "an entry point": {"entrypoint": "payload.py:payload"},
    "a path": {"path": "/tmp"},
    "default parameters": {"parameters": {"other": 1}},
    "exactly one parameter": {"run": {"parameters": {**parameters(), "more": 1}}},
    "not valid": {"run": {"parameters": {"request": {**parameters()["request"], "command": "touch"}}}},
    "is for south": {"run": {"parameters": parameters(site="south")}},
    "at most": {"run": {"parameters": {"request": {"kind": "x" * 300_000}}}},
}


@pytest.mark.parametrize("reason", HOSTILE)
@in_loop
async def test_a_run_that_carries_more_than_a_request_is_refused(prefect: str, reason: str) -> None:
    await make_pool("north")
    run, ward = await order("north", **HOSTILE[reason]), Ward()
    await set_template("north", EMPTY_TEMPLATE)
    await work_once(ward)
    assert ward.asked == []
    assert [reason in refusal for refusal in ward.refusals] == [True], ward.refusals
    assert (await read(run)).state_name == "Refused"


@in_loop
async def test_a_pool_of_another_type_or_with_a_template_of_its_own_is_refused(prefect: str) -> None:
    ward = Ward()
    await make_pool("north", "process")
    await order("north")
    await work_once(ward)
    await make_pool("north")
    await order("north")
    await set_template("north", {**EMPTY_TEMPLATE, "job_configuration": {"command": "touch payload"}})
    await work_once(ward)
    assert ward.asked == []
    assert [refusal[:20] for refusal in ward.refusals] == ["the pool is of type ", "the pool's job templ"]


@in_loop
async def test_a_worker_works_for_its_own_pool_only(prefect: str) -> None:
    await make_pool("south")
    with pytest.raises(RefusedError, match="this machine is north; it does not work for the pool south"):
        await work_once(Ward(), pool="south")


@in_loop
async def test_the_same_payloads_run_on_a_stock_worker(prefect: str, tmp_path: Path) -> None:
    """The positive control: what is refused above is real."""
    from prefect.workers.process import ProcessWorker

    await make_pool("stock", "process")
    await set_template("stock", ProcessWorker.get_default_base_job_template())
    marks = {name: tmp_path / name for name in ("command", "step", "entry")}
    (tmp_path / "payload.py").write_text(
        "import pathlib\nfrom prefect import flow\n@flow\ndef payload(**k):\n"
        f"    pathlib.Path({str(marks['entry'])!r}).touch()\n"
    )
    run: dict[str, Any] = {"parameters": {}}
    step = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {marks['step']}"}}
    await order("stock", run, job_variables={"command": f"touch {marks['command']}"}, entrypoint="x.py:x")
    async with get_client() as client:
        flow = await client.create_flow_from_name("payload")
        for name, more in (("step", {"pull_steps": [step]}), ("entry", {"path": str(tmp_path)})):
            made = await client.create_deployment(
                flow, name=name, work_pool_name="stock", entrypoint="payload.py:payload", **more
            )
            await client.create_flow_run_from_deployment(made)
    await ProcessWorker(work_pool_name="stock").start(run_once=True, printer=str)
    assert {name: mark.exists() for name, mark in marks.items()} == dict.fromkeys(marks, True)


def test_the_worker_registers_itself_and_loads_without_torch() -> None:
    program = (
        "import sys, json, flows.hospital_worker; from prefect.workers.base import BaseWorker;"
        "print(json.dumps([BaseWorker.get_worker_class_from_type('hospital').__name__, 'torch' in sys.modules]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(said.stdout.splitlines()[-1]) == ["HospitalWorker", False]
