"""A hospital at a real gateway whose processes die, or are asked for something that is withdrawn again."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from components.dispatch import Preparation
from components.errors import LostError
from components.exchange.keys import VerifyKey
from components.exchange.signing import read_signed
from components.exchange.site_request import Call, SiteRequest, request_text, sign_call, verify_prepared
from components.gateway.records import Activity, SlotKey
from components.gateway.slots import SealedSlots
from components.governance.identity_files import CoordinatorFolder
from components.journal import read
from flows import hospital as hospitals
from flows.hospital import Hospital
from flows.warm import WarmProcesses
from tests.components.gateway.gates import Build, Gate
from tests.end_to_end.ward import wait_until
from tests.flows.site_double import spawn_double, tell_double
from tests.flows.test_warm import alive, in_loop
from tests.references.tiny_study import tiny_study

pytestmark = pytest.mark.timeout(300)


class Asked:
    """A hospital, and what its coordinator asks of it."""

    def __init__(self, gate: Gate, folder: Path) -> None:
        self.gate, self.folder, self.hospital = gate, folder, Hospital(folder)
        self.calls: list[tuple[SlotKey, SiteRequest, Call]] = []

    def ask(self, study: str) -> SiteRequest:
        """Ask the site to prepare for a study."""
        training, asked = f"t-{secrets.token_hex(4)}", tiny_study(study=study)
        call = Call(federation="ward", site="north", training=training, study_digest=asked.digest,
                    nonce=secrets.token_hex(16))  # fmt: skip
        signed = sign_call(call, self.gate.secrets.signing)
        request = SiteRequest(kind="prepare", site="north", training=training, study=asked, call=signed)
        slot = SlotKey(training=training, round=1, attempt=1, kind="prepare", site="north")
        self.gate.grants.open_slot(slot, max_bytes=1, request=request_text(request))
        self.calls.append((slot, request, call))
        return request

    def take(self) -> None:
        """Hand the hospital what is open and not answered, as the gateway lists it."""
        slots = SealedSlots(self.gate.exchange / "sealed")
        self.hospital.take([item for item in self.gate.grants.work("north") if slots.envelope(item.slot) is None])

    async def answer(self) -> Preparation:
        """Wait for the answer to what was asked last."""
        slot, _, call = self.calls[-1]
        slots = SealedSlots(self.gate.exchange / "sealed")
        found = await asyncio.to_thread(wait_until, lambda: slots.envelope(slot) is not None, 60)
        assert found
        envelope = slots.envelope(slot)
        assert envelope is not None
        site = self.gate.sites.get("north")
        assert site is not None
        assert site.signing_key is not None
        return verify_prepared(read_signed(envelope), VerifyKey.from_base64(site.signing_key), call)

    def do(self, study: str, order: str) -> None:
        """Say what the study's process does next."""
        tell_double(self.folder / "studies" / study, order)

    def undo(self, study: str) -> None:
        (self.folder / "studies" / study / "do").unlink()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    monkeypatch.setattr(hospitals, "WarmProcesses", partial(WarmProcesses, spawn=spawn_double, places=[]))
    build = Build(tmp_path, CoordinatorFolder(tmp_path).make("ward", names=["localhost"], ips=["127.0.0.1"]), [])
    gate = build()
    folder = tmp_path / "sites" / "north"
    gate.enrol("north")
    (folder / "hospital.yaml").write_text("data: {'*': /data}\n")
    made = Asked(gate, folder)
    yield made
    made.hospital.close()
    for running, database in build.made:
        running.stop()
        database.close()


@pytest.mark.parametrize("by", ["list", "run"])
@in_loop
async def test_that_a_process_died_twice_is_answered_and_the_next_request_is_done(asked: Asked, by: str) -> None:
    """Whether the request came in the gateway's list, or first as a run in Prefect, which alone fills no slot."""
    asked.do("chest", "die")
    request = asked.ask("chest")
    if by == "run":
        with pytest.raises(LostError, match="the process that should prepare died twice"):
            await asked.hospital.carry_out(request)
        assert SealedSlots(asked.gate.exchange / "sealed").envelope(asked.calls[-1][0]) is None
    asked.take()
    found = await asked.answer()
    assert (found.ready, "died twice" in found.reason) == (False, True)
    asked.undo("chest")
    asked.ask("chest")
    asked.take()
    assert json.loads((await asked.answer()).reason)["study"] == "chest"


@in_loop
async def test_what_is_asked_anew_is_answered_anew(asked: Asked) -> None:
    """As by a coordinator that was killed after it took the answer, and before it wrote it into its journal."""
    asked.do("chest", "say")
    request = asked.ask("chest")
    asked.take()
    first = await asked.answer()
    slot = asked.calls[-1][0]
    asked.take()  # it is not listed any more
    SealedSlots(asked.gate.exchange / "sealed").discard(slot)
    asked.gate.grants.open_slot(slot, max_bytes=1, request=request_text(request))
    while not all(work.done() for work in asked.hospital._works.values()):
        await asyncio.sleep(0.01)
    asked.take()
    assert (await asked.answer()).reason == first.reason


@in_loop
async def test_what_is_withdrawn_is_ended_and_another_study_goes_on(asked: Asked) -> None:
    asked.do("chest", "wait")
    asked.ask("chest")
    asked.take()
    waits = asked.folder / "studies" / "chest" / "waits"
    assert await asyncio.to_thread(wait_until, waits.exists, 60)
    (warm,) = asked.hospital._warm._warm.values()
    (pid,) = warm.pool.groups
    asked.ask("spine")  # the machine is one place: it waits
    asked.take()
    await asyncio.sleep(0)
    told = asked.hospital.activity()
    assert (told.state, told.training, told.waiting) == ("prepare", asked.calls[0][0].training, 1)

    asked.gate.grants.close_slot(asked.calls[0][0])
    asked.take()
    assert json.loads((await asked.answer()).reason)["study"] == "spine"
    assert not alive(pid)
    while asked.hospital.activity() != Activity():
        await asyncio.sleep(0.01)
    events = [entry.event for entry in read(asked.folder / "journal.jsonl")]
    assert [event for event in events if event.startswith(("work", "process"))] == [
        "process_started", "work_withdrawn", "process_ended", "process_started",
    ]  # fmt: skip
