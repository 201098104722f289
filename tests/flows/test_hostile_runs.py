"""Every way in which a Prefect server can make a worker run something, at a hospital and at a stock worker.

Whoever has the server's password orders the same runs in both pools: the stock worker runs what they carry, which
shows that each is real; the hospital's worker refuses each, says which it is, and starts nothing.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.filesystems import LocalFileSystem
from prefect.states import Scheduled
from prefect.workers.process import ProcessWorker

from components.journal import Journal
from components.journal import read as read_journal
from flows.closed_worker import EMPTY_TEMPLATE
from tests.flows.test_hospital_worker import (
    Ward,
    in_loop,
    make_pool,
    order,
    prefect,
    read,
    set_template,
    work_once,
)

__all__ = ["prefect"]  # the fixture: a server, and this process's client turned to it
pytestmark = pytest.mark.timeout(200)


@dataclass(frozen=True)
class Trap:
    """A folder with a payload; each way to it leaves a mark of its own."""

    folder: Path

    def mark(self, name: str) -> Path:
        return self.folder / f"{name}.mark"

    def payload(self, name: str) -> str:
        """Write a flow that leaves a mark; return its entry point."""
        (self.folder / f"{name}.py").write_text(
            "import pathlib\nfrom prefect import flow\n@flow\ndef payload(**given):\n"
            f"    pathlib.Path({str(self.mark(name))!r}).touch()\n"
        )
        return f"{name}.py:payload"

    def hook(self, name: str) -> Path:
        """Write a module that every Python in this folder imports as it starts; return the folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(f"import pathlib\npathlib.Path({str(self.mark(name))!r}).touch()\n")
        return folder


def asked(pool: str) -> dict[str, Any]:
    """A request where one is read; the payload takes none."""
    return {"parameters": {}} if pool == "stock" else {}


async def command(pool: str, trap: Trap) -> UUID:
    return await order(pool, job_variables={"command": f"touch {trap.mark('command')}"}, entrypoint="x.py:x")


async def command_of_the_run(pool: str, trap: Trap) -> UUID:
    variables = {"command": f"touch {trap.mark('command_of_the_run')}"}
    return await order(pool, {"job_variables": variables}, **({"entrypoint": "x.py:x"} if pool == "stock" else {}))


async def environment(pool: str, trap: Trap) -> UUID:
    """Anything may be set for the process, and Python runs what ``PYTHONPATH`` has."""
    variables = {"env": {"PYTHONPATH": str(trap.hook("environment"))}, "command": f"{sys.executable} -c pass"}
    return await order(pool, {"job_variables": variables}, **({"entrypoint": "x.py:x"} if pool == "stock" else {}))


async def pull_step(pool: str, trap: Trap) -> UUID:
    step = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {trap.mark('pull_step')}"}}
    return await order(pool, pull_steps=[step], entrypoint="x.py:x")


async def path(pool: str, trap: Trap) -> UUID:
    return await order(pool, asked(pool), path=str(trap.folder), entrypoint=trap.payload("path"))


async def storage_block(pool: str, trap: Trap) -> UUID:
    block = await LocalFileSystem(basepath=str(trap.folder)).save(f"storage-{pool}", overwrite=True)
    return await order(pool, asked(pool), storage_document_id=block, entrypoint=trap.payload("storage_block"))


async def infrastructure_block(pool: str, trap: Trap) -> UUID:
    """Prefect 3's workers do not look at it; a hospital's refuses it all the same."""
    block = await LocalFileSystem(basepath=str(trap.folder)).save(f"infrastructure-{pool}", overwrite=True)
    return await order(pool, infrastructure_document_id=block)


class Pickled:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self._command,)


async def bundle(pool: str, trap: Trap) -> UUID:
    """A pickle that a command unpacks: what ``flow.submit_to_work_pool`` orders, without any deployment."""
    file = trap.folder / f"{pool}.bundle"
    variables = {"command": f"{sys.executable} -m prefect.bundles.execute --key {file}"}
    async with get_client() as client:
        run = await client.create_flow_run(
            flow(lambda: None, name="bundled"), work_pool_name=pool, job_variables=variables, state=Scheduled()
        )
    packed = base64.b64encode(gzip.compress(pickle.dumps(Pickled(f"touch {trap.mark('bundle')}")))).decode()
    content = {"function": packed, "context": packed, "flow_run": run.model_dump(mode="json"), "dependencies": ""}
    file.write_text(json.dumps(content))
    return run.id


Order = Callable[[str, Trap], Awaitable[UUID]]
# The way in, and what a hospital says of it.
WAYS: dict[Order, str] = {
    command: "job variables of the deployment",
    command_of_the_run: "job variables of the run",
    environment: "job variables of the run",
    pull_step: "pull steps",
    path: "a path",
    storage_block: "a storage block",
    infrastructure_block: "an infrastructure block",
    bundle: "the run belongs to no deployment",
}
NOT_LOOKED_AT_BY_PREFECT = (infrastructure_block,)


@dataclass
class Recording(Ward):
    """Records what it refuses, as a hospital does."""

    journal: Path = Path()

    def refused(self, run: str, reason: str) -> None:
        with Journal.open(self.journal) as journal:
            journal.append("run_refused", run=run, reason=reason)


@in_loop
async def test_a_hospital_refuses_and_records_every_way(prefect: str, tmp_path: Path) -> None:
    trap, ward = Trap(tmp_path), Recording(journal=tmp_path / "journal.jsonl")
    await make_pool("north")
    runs = {str(await way("north", trap)): reason for way, reason in WAYS.items()}
    good = str(await order("north"))
    await set_template("north", EMPTY_TEMPLATE)
    await work_once(ward)
    refused = {entry.data["run"]: entry.data["reason"] for entry in read_journal(ward.journal)}
    assert refused.keys() == runs.keys()
    assert [run for run, reason in runs.items() if reason not in refused[run]] == []
    assert {(await read(UUID(run))).state_name for run in runs} == {"Refused"}
    assert [request.kind for request in ward.asked] == ["prepare"]  # the good one, which is the control
    assert (await read(UUID(good))).state_name == "Completed"
    assert list(tmp_path.glob("*.mark")) == []


def hostile_template(trap: Trap) -> dict[str, Any]:
    """Return a template that says itself what is run, whatever a run says."""
    made: dict[str, Any] = json.loads(json.dumps(ProcessWorker.get_default_base_job_template()))
    made["job_configuration"] |= {"command": f"touch {trap.mark('template')}"}
    return made


@in_loop
async def test_a_hospital_uses_no_template_of_its_pool(prefect: str, tmp_path: Path) -> None:
    trap, ward = Trap(tmp_path), Ward()
    await make_pool("north")
    run = await order("north")
    await set_template("north", hostile_template(trap))
    await work_once(ward)
    assert ward.asked == []
    assert ["template sets something" in reason for reason in ward.refusals] == [True]
    assert (await read(run)).state_name == "Refused"
    assert not trap.mark("template").exists()


@in_loop
async def test_a_stock_worker_runs_every_way(prefect: str, tmp_path: Path) -> None:
    """The positive control: what is refused above is real."""
    trap = Trap(tmp_path)
    await make_pool("stock", "process")
    await set_template("stock", ProcessWorker.get_default_base_job_template())
    for way in WAYS:
        if way not in NOT_LOOKED_AT_BY_PREFECT:
            await way("stock", trap)
    await ProcessWorker(work_pool_name="stock").start(run_once=True, printer=str)
    await order("stock", entrypoint="x.py:x")
    await set_template("stock", hostile_template(trap))
    await ProcessWorker(work_pool_name="stock").start(run_once=True, printer=str)
    names = [way.__name__ for way in WAYS if way not in NOT_LOOKED_AT_BY_PREFECT]  # type: ignore[attr-defined]
    assert [name for name in [*names, "template"] if not trap.mark(name).exists()] == []
