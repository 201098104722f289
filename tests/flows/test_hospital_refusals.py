"""What a hospital does not do, and says so: a study of a newer version, and rounds it has seen before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import RefusedError, SeenRoundError
from components.exchange.protocol import PROTOCOL
from components.exchange.signed import SignedOrder, sign_order, verify_update
from components.exchange.signing import read_signed
from components.exchange.site_request import (
    Call,
    SiteRequest,
    claimed_work,
    parse_request,
    request_text,
    sign_call,
    verify_prepared,
)
from components.gateway.records import SlotKey, WorkItem, own_version, slot_of_order
from components.gateway.slots import SealedSlots
from components.governance.acceptances import Acceptance, Acceptances
from components.governance.identity_files import SiteFolder
from components.journal import Journal
from components.rounds import Order, RoundPlan
from flows.hospital import Hospital
from flows.hospital_review import Review
from tests.components.gateway.gates import Gate, gates
from tests.references.tiny_study import STUDY, tiny_study

pytestmark = pytest.mark.timeout(120)
ANY_STUDY = tiny_study()
TRAINING = "tiny-1"


def plan(number: int, **changes: object) -> RoundPlan:
    fields = {
        "study": STUDY, "study_digest": ANY_STUDY.digest, "training": TRAINING, "round": number,
        "base_digest": "b" * 64, "roster": ["north"], "quorum": 1, "deadline_s": 60.0,
    }  # fmt: skip
    return RoundPlan.model_validate({**fields, **changes})


ORDER = Order(kind="train", site="north", plan=plan(3), weights_digest="b" * 64, nonce="n1")
CALL = Call(federation="ward", site="north", training=TRAINING, study_digest=ANY_STUDY.digest, nonce="0" * 32)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gates(tmp_path_factory.mktemp("federation")) as build:
        yield build()


@pytest.fixture(scope="module")
def north(gate: Gate) -> SiteFolder:
    return gate.enrol("north")


def newer(gate: Gate, kind: str) -> str:
    """A request of a newer coordinator, whose studies have a field that is not known here."""
    key = gate.secrets.signing
    if kind == "prepare":
        signed, of_plan = sign_call(CALL, key), None
    else:
        signed = of_plan = sign_order(SignedOrder(federation="ward", order=ORDER), key)
    request = SiteRequest(kind=kind, site="north", training=TRAINING, study=ANY_STUDY, call=signed, plan=of_plan)  # type: ignore[arg-type]
    fields = json.loads(request_text(request))
    fields["study"]["rounds"]["mode"] = "of tomorrow"
    return json.dumps(fields)


@pytest.mark.parametrize("kind", ["prepare", "train"])
def test_a_request_whose_study_cannot_be_read_is_answered_with_the_reason_and_the_version(
    gate: Gate, north: SiteFolder, kind: str
) -> None:
    text = newer(gate, kind)
    slot = (
        SlotKey(training=TRAINING, round=1, attempt=1, kind="prepare", site="north")
        if kind == "prepare"
        else slot_of_order(ORDER)
    )
    gate.grants.open_slot(slot, max_bytes=1, request=text)
    slots = SealedSlots(gate.exchange / "sealed")

    async def work() -> bytes:
        hospital = Hospital(gate.folder / "sites" / "north")
        try:
            async with asyncio.timeout(30):
                while (found := slots.envelope(slot)) is None:
                    hospital.take([WorkItem(slot=slot, request=text)])
                    await asyncio.sleep(0.02)
            return found
        finally:
            await asyncio.gather(*hospital._works.values(), return_exceptions=True)
            hospital.close()

    signed, key = read_signed(asyncio.run(work())), north.read_keys().public.signing
    if kind == "prepare":
        found = verify_prepared(signed, key, CALL)
        reason, refused = found.reason, not found.ready
    else:
        answer = verify_update(signed, key, federation="ward", order=ORDER).answer
        reason, refused = answer.reason, answer.status == "refused"
    assert refused
    assert "study.rounds.mode" in reason
    assert f"this hospital runs WardRound {own_version()} (protocol {PROTOCOL}): is it an older one?" in reason


def test_what_cannot_be_read_names_its_work_only_to_the_site_it_is_for(gate: Gate) -> None:
    text = newer(gate, "train")
    with pytest.raises(RefusedError, match="mode"):
        parse_request(text, site="north")
    assert claimed_work(text, site="north") == ORDER
    assert claimed_work(newer(gate, "prepare"), site="north") == CALL
    assert claimed_work(text, site="south") is None
    for nonsense in ("", "{}", "[1]", '{"call": {"body": "{}"}}', "x" * (1 << 20)):
        assert claimed_work(nonsense, site="north") is None


def test_a_round_that_was_seen_is_accepted_once_the_administrator_says_so_and_the_journal_has_it(
    tmp_path: Path,
) -> None:
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        review = Review(tmp_path, journal)
        review._accept(plan(3))
        with pytest.raises(SeenRoundError, match="older than the last one accepted here"):
            review._accept(plan(2))
        with pytest.raises(SeenRoundError, match="has the number, but not the content"):
            review._accept(plan(3, quorum=2, roster=["north", "south"]))
        given = Acceptance(by="anna", given="2026-11-23T01:02:03+00:00", reason="disk lost")
        Acceptances(tmp_path).give(TRAINING, given)
        review._accept(plan(2))
        allowed = journal.last("older_plan_allowed")
        assert allowed is not None
        assert {**given.model_dump(), "round": 2, "seen": 3, "training": TRAINING} == allowed.data
        with pytest.raises(SeenRoundError):
            review._accept(plan(1))
    with Journal.open(tmp_path / "journal.jsonl") as journal:  # a worker that was started again
        Review(tmp_path, journal)._accept(plan(3))
