"""The hospital's worker at work through a real gateway: known by its credential, with no other way to Prefect."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import httpx
import pytest
import websockets.asyncio.client
from prefect.events.worker import EventsWorker
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_WORKER_ENABLE_CANCELLATION,
    temporary_settings,
)
from sqlalchemy import update

from components.errors import RefusedError
from components.gateway import prefect_proxy
from components.gateway.database import credentials
from components.gateway.prefect_routes import ROUTES
from components.gateway.transport import Route
from components.governance.identity_files import SiteFolder
from flows.closed_worker import EMPTY_TEMPLATE
from flows.hospital_client import connected
from flows.hospital_worker import HospitalWorker
from tests.components.gateway.gates import Build, Gate, gates
from tests.flows.test_hospital_worker import Ward, in_loop, make_pool, order, parameters, prefect, read, set_template

__all__ = ["prefect"]  # the fixture: a server, and this process's client turned to it directly
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    with gates(tmp_path_factory.mktemp("federation")) as made:
        yield made


@pytest.fixture(scope="module")
def gate(build: Build, prefect: str) -> Gate:
    return build(ROUTES, prefect_url=prefect, hold_s=20.0)


@pytest.fixture
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
    monkeypatch.setattr(EventsWorker, "instance", lambda *given: opened.append(given))
    await prepare("north")
    run, ward = await order("north"), Ward()
    with refusals(caplog):
        await work_once(worker_of(ward, north, Route(signed=signed)))
    assert [request.kind for request in ward.asked] == ["prepare"]
    done = await read(run)
    assert (done.state_name, done.state and done.state.message) == ("Completed", "opened 12 items")
    assert opened == []


@in_loop
async def test_a_run_that_comes_while_the_worker_polls_is_found_at_the_next_look(
    gate: Gate, north: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_proxy, "_ASK_AGAIN_S", 0.3)
    await prepare("north")
    ward = TimedWard()
    async with polling(worker_of(ward, north), gate):
        for done in range(3):
            run = await order("north")
            ordered = time.monotonic()
            await until(lambda done=done: len(ward.begun) > done)  # type: ignore[misc]
            assert ward.begun[done] - ordered < 5.0  # the poll itself is held for longer
            await completed(run)
            await held(gate)


@in_loop
async def test_a_worker_survives_that_the_gateway_is_away(build: Build, prefect: str, north: SiteFolder) -> None:
    await prepare("north")
    gate, ward = build(ROUTES, prefect_url=prefect, hold_s=20.0), Ward()
    north.write_federation(north.read_federation().model_copy(update={"gateway": gate.address}))
    async with polling(worker_of(ward, north), gate):
        await asyncio.to_thread(gate.running.stop)
        run = await order("north")
        again = await asyncio.to_thread(
            partial(build, ROUTES, prefect_url=prefect, hold_s=20.0, port=gate.running.port)
        )
        await completed(run, 40)
        assert again.running.port == gate.running.port


@in_loop
async def test_a_worker_that_starts_before_its_gateway_waits_for_it(
    build: Build, prefect: str, north: SiteFolder
) -> None:
    await prepare("north")
    gate = build(ROUTES, prefect_url=prefect, hold_s=20.0)
    north.write_federation(north.read_federation().model_copy(update={"gateway": gate.address}))
    await asyncio.to_thread(gate.running.stop)
    run, said = await order("north"), logging.getLogger("wardround.hospital")
    working = asyncio.create_task(worker_of(Ward(), north).start(printer=said.info))
    try:
        await asyncio.to_thread(partial(build, ROUTES, prefect_url=prefect, hold_s=20.0, port=gate.running.port))
        await completed(run, 40)
    finally:
        await end(working)


@in_loop
async def test_a_worker_shows_the_credential_that_was_renewed(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_proxy, "_ASK_AGAIN_S", 0.3)
    folder = gate.enrol("east")
    await prepare("east")
    async with polling(worker_of(Ward(site="east"), folder), gate):
        old = folder.read_credential().serial
        with gate.client(folder) as client:
            await asyncio.to_thread(client.renew)
        with gate.database.write() as connection:  # as if the old one's time were over
            connection.execute(update(credentials).where(credentials.c.serial == old).values(revoked_at=1.0))
        run = await order("east", {"parameters": parameters("east")})
        await completed(run)
        await held(gate)


@in_loop
async def test_a_worker_that_is_shut_out_ends_and_says_why(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_proxy, "_ASK_AGAIN_S", 0.3)
    folder = gate.enrol("west")
    await prepare("west")
    working = asyncio.create_task(worker_of(Ward(site="west"), folder).start(printer=str))  # type: ignore[arg-type]
    await held(gate)
    gate.sites.revoke("west")
    run = await order("west", {"parameters": parameters("west")})  # ends the poll that is under way
    with pytest.raises(RefusedError, match="it was revoked"):
        await asyncio.wait_for(working, 40)
    assert (await read(run)).state_name != "Completed"


@in_loop
async def test_a_worker_finds_no_pool_but_its_own(gate: Gate, north: SiteFolder) -> None:
    await prepare("south")
    run, ward = await order("south", {"parameters": parameters("south")}), Ward(site="south")
    await work_once(worker_of(ward, north))
    assert (ward.asked, (await read(run)).state_name) == ([], "Scheduled")


@in_loop
async def test_nothing_of_the_user_s_own_prefect_goes_to_the_gateway(
    gate: Gate, north: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = httpx.AsyncHTTPTransport.handle_async_request

    async def noting(transport: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        sent.append(f"{request.method} {request.url.path} {request.headers.raw} {request.content!r}")
        return await send(transport, request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", noting)
    await prepare("north")
    user = {PREFECT_API_KEY: "pnu_secret", PREFECT_API_AUTH_STRING: "admin:secret",
            PREFECT_CLIENT_CUSTOM_HEADERS: {"x-mine": "secret"}, PREFECT_LOGGING_TO_API_ENABLED: True,
            PREFECT_WORKER_ENABLE_CANCELLATION: True}  # fmt: skip
    await order("north")
    sent.clear()
    with temporary_settings(user):
        await work_once(worker_of(Ward(), north))
    assert len(sent) > 8
    assert [one for one in sent if "secret" in one or "uthorization" in one or "/logs" in one] == []
    assert os.environ["DO_NOT_TRACK"] == "1"


async def work_once(worker: HospitalWorker) -> None:
    """Work in a task of its own: what a worker sets is not this test's."""
    await asyncio.create_task(worker.start(run_once=True, printer=logging.getLogger("test").info))


async def end(working: asyncio.Task[None]) -> None:
    working.cancel()
    await asyncio.wait([working])


async def held(gate: Gate) -> None:
    """Wait until a poll is held."""
    closing = gate.running.server._gateway._proxy._closing
    await until(lambda: closing._waiters)  # type: ignore[attr-defined]


@asynccontextmanager
async def polling(worker: HospitalWorker, gate: Gate) -> AsyncIterator[None]:
    """Let a worker poll."""
    working = asyncio.create_task(worker.start(printer=logging.getLogger("test").info))
    try:
        await held(gate)
        yield
        assert not working.done()
    finally:
        await end(working)


async def completed(run: UUID, limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while (await read(run)).state_name != "Completed":
            await asyncio.sleep(0.02)
