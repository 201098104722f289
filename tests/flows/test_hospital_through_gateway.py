"""The hospital's worker at work through a real gateway: known by its credential, with no other way to Prefect."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import websockets.asyncio.client
from prefect.client.orchestration import get_client

from components.gateway.prefect_routes import ROUTES
from components.gateway.transport import Route
from components.governance.identity_files import CoordinatorFolder, SiteFolder
from flows.hospital_client import connected
from flows.hospital_worker import EMPTY_TEMPLATE, HospitalWorker
from tests.components.gateway.gates import Build, Gate
from tests.flows.test_hospital_worker import Ward, in_loop, make_pool, order, prefect, read, set_template

__all__ = ["prefect"]  # the fixture: a server, and this process's client turned to it directly
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, prefect: str) -> Iterator[Gate]:
    folder = tmp_path_factory.mktemp("federation")
    secrets = CoordinatorFolder(folder).make("ward", names=["localhost"], ips=["127.0.0.1"])
    build = Build(folder, secrets, [])
    yield build(ROUTES, prefect_url=prefect, hold_s=20.0)
    for running, database in build.made:
        running.stop()
        database.close()


@pytest.fixture(scope="module")
def north(gate: Gate) -> SiteFolder:
    return gate.enrol("north")


@dataclass
class TimedWard(Ward):
    """Notes when it was asked, besides."""

    begun: list[float] = field(default_factory=list)

    async def carry_out(self, request: object) -> str:
        self.begun.append(time.monotonic())
        return await super().carry_out(request)  # type: ignore[arg-type]


def worker_of(ward: Ward, folder: SiteFolder, route: Route | None = None) -> HospitalWorker:
    worker = HospitalWorker(work_pool_name=ward.site, create_pool_if_not_found=False)
    worker.work, worker.connect = ward, partial(connected, folder, route)
    return worker


async def prepare(site: str) -> None:
    await make_pool(site)
    await set_template(site, EMPTY_TEMPLATE)


async def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


@contextmanager
def refusals(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """See that the gateway refuses nothing meanwhile, and that nothing else goes out."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="wardround.gateway"):
        yield
    assert [record.getMessage() for record in caplog.records if record.name == "wardround.gateway"] == []


@pytest.mark.parametrize("signed", [False, True])
@in_loop
async def test_a_request_is_carried_out_through_the_gateway(
    gate: Gate, north: SiteFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(websockets.asyncio.client.connect, "__init__", lambda *given, **_: opened.append(given))
    await prepare("north")
    run, ward, threads = await order("north"), Ward(), threading.active_count()
    with refusals(caplog):
        await asyncio.create_task(worker_of(ward, north, Route(signed=signed)).start(run_once=True, printer=str))
    assert [request.kind for request in ward.asked] == ["prepare"]
    done = await read(run)
    assert (done.state_name, done.state and done.state.message) == ("Completed", "opened 12 items")
    assert opened == []
    assert done.infrastructure_pid == str(run)


@in_loop
async def test_an_order_that_comes_while_the_worker_polls_starts_within_a_second(gate: Gate, north: SiteFolder) -> None:
    await prepare("north")
    ward = TimedWard()
    working = asyncio.create_task(worker_of(ward, north).start(printer=str))
    try:
        for done in range(3):
            await until(lambda: gate.running.server.server_state.connections)
            held = asyncio.get_running_loop().time() + 1.0
            await until(lambda held=held: asyncio.get_running_loop().time() > held)  # it polls, whatever it did before
            run = await order("north")
            ordered = time.monotonic()
            gate.grants.ring("north")
            await until(lambda done=done: len(ward.begun) > done)
            assert ward.begun[done] - ordered < 1.0
            await completed(run)
    finally:
        working.cancel()
        await asyncio.wait([working])


async def completed(run: UUID) -> None:
    async with asyncio.timeout(10):
        while (await read(run)).state_name != "Completed":
            await asyncio.sleep(0.02)
