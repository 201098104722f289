"""How the coordinator puts a question to hospitals, with a real database and real slots: what it takes from whom."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from components.analytics.plan import Attendance
from components.analytics.records import AnalysisAnswer, AnalysisRequest, AskSummary
from components.exchange.keys import SigningKey
from components.exchange.questions import QuestionCall, QuestionRequest, reply_context, reply_to, sign_reply
from components.exchange.sealing import seal_file
from components.exchange.signing import Signed
from components.exchange.site_request import parse_request
from components.gateway.records import SlotKey
from components.journal import Journal
from flows.analysis_session import AnalysisSession, StoppedAnalysisError, begin_analysis, open_journal
from flows.analysis_sites import AnalysisRoll, Hospitals
from flows.progress import Watcher
from flows.site_runs import SiteRuns
from tests.components.analytics.hospitals import study
from tests.flows.sides import KEY, Quiet, Side, open_side

OTHER = SigningKey.generate()
SITES = ["east", "north", "west"]
STUDY, HASTY = (study(SITES).model_copy(update={"attendance": Attendance(quorum=2, deadline_s=s)}) for s in (60.0, 0.5))


class Present(AnalysisRoll):
    """A roll of sites that are all there."""

    def takes_part(self, site: str) -> bool:
        return True

    def away(self, site: str, asked: SlotKey | None) -> str:
        return ""


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    with open_side(tmp_path) as made:
        yield made


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with open_journal(tmp_path / "home", "trial") as found:
        yield found


@pytest.fixture
def session(journal: Journal) -> AnalysisSession:
    return AnalysisSession(STUDY, begin_analysis(STUDY, SITES, journal, fresh=False), journal, watcher=Watcher())


@pytest.fixture
def hospitals(side: Side, session: AnalysisSession) -> Iterator[Hospitals]:
    roll = Present(STUDY.sites, side, require_ready=False)
    made = Hospitals(session, side, roll, cast(SiteRuns, Quiet()))
    yield made
    made.close()


def request(site: str) -> AnalysisRequest:
    return AnalysisRequest(study="trial", study_digest=STUDY.digest, site=site, question=AskSummary())


async def asked(side: Side, site: str) -> tuple[SlotKey, QuestionCall]:
    """Wait until a site is asked; return what it is asked, as the site reads it."""
    async with asyncio.timeout(20):
        while not (items := await asyncio.to_thread(side.grants.work, site)):
            await asyncio.sleep(0.02)
    found = parse_request(items[0].request, site=site)
    assert isinstance(found, QuestionRequest)
    return items[0].slot, QuestionCall.model_validate_json(found.call.body)


def deliver(side: Side, slot: SlotKey, call: QuestionCall, key: SigningKey = KEY, **changes: Any) -> None:
    """Bring an answer as a hospital and the gateway do."""
    digest = hashlib.sha256(call.question.encode()).hexdigest()
    answer = AnalysisAnswer(site=slot.site, request_digest=digest, status="withheld", reason="few")
    plain, place = side.folder / "plain.json", side.sealed.payload(slot)
    text = answer.model_dump_json().encode()
    plain.write_bytes(text)
    sealed = seal_file(plain, place, side.secrets.sealing.public, changes.get("context", reply_context(call)))
    reply = reply_to(
        call, answer_sha256=hashlib.sha256(text).hexdigest(), sealed_sha256=sealed.sha256, sealed_bytes=sealed.bytes
    )
    signed: Signed = sign_reply(reply.model_copy(update=changes.get("reply", {})), key)
    envelope = signed.model_dump_json().encode()
    side.sealed.submit(slot, envelope, sealed_sha256=sealed.sha256, sealed_bytes=sealed.bytes)


def test_a_sealed_answer_is_opened_and_its_slot_is_closed_and_emptied(hospitals: Hospitals, side: Side) -> None:
    async def run() -> AnalysisAnswer | None:
        found = asyncio.create_task(hospitals.ask(request("north"), "summary", 3))
        slot, call = await asked(side, "north")
        assert (slot.kind, slot.round, slot.attempt) == ("analyse", 3, 1)
        assert (call.roster, call.federation) == (SITES, "ward")
        deliver(side, slot, call)
        answer = await found
        async with asyncio.timeout(20):
            while side.grants.open_bytes(slot) is not None or (side.sealed.root / slot.folder).exists():
                await asyncio.sleep(0.02)
        return answer

    answer = asyncio.run(run())
    assert answer is not None
    assert (answer.status, answer.reason) == ("withheld", "few")
    assert list(hospitals._session.folder.glob("*.opened")) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"key": OTHER}, "signed with key"),
        ({"reply": {"nonce": "0" * 32}}, "the reply of north is to another question"),
        ({"reply": {"answer_sha256": "0" * 64}}, "the sealed answer of north is not the one it signed"),
        ({"context": b"{}"}, "for another context"),
    ],
)
def test_a_forged_reply_is_not_taken_and_the_site_is_asked_once_more(
    hospitals: Hospitals, side: Side, journal: Journal, changes: dict[str, Any], said: str
) -> None:
    async def run() -> AnalysisAnswer | None:
        found = asyncio.create_task(hospitals.ask(request("north"), "summary", 1))
        slot, call = await asked(side, "north")
        deliver(side, slot, call, **changes)
        async with asyncio.timeout(20):
            while (again := await asked(side, "north"))[0].attempt == 1:
                await asyncio.sleep(0.02)
        deliver(side, *again)
        return await found

    answer = asyncio.run(run())
    assert answer is not None
    assert answer.status == "withheld"
    entry = journal.last("asked_again", site="north")
    assert entry is not None
    assert said in entry.data["reason"]


def test_who_does_not_answer_in_time_is_left_out_and_asked_no_more(
    hospitals: Hospitals, side: Side, session: AnalysisSession
) -> None:
    session.study = HASTY
    assert asyncio.run(hospitals.ask(request("west"), "summary", 1)) is None
    assert session.sites == ["east", "north"]
    slot = SlotKey(training=session.analysis, round=1, attempt=1, kind="analyse", site="west")
    for _ in range(200):
        if side.grants.open_bytes(slot) is None:
            break
        asyncio.run(asyncio.sleep(0.05))
    assert side.grants.work("west") == []


def test_one_more_than_the_rule_allows_is_waited_for_until_the_operator_stops(
    hospitals: Hospitals, session: AnalysisSession, journal: Journal
) -> None:
    session.study = HASTY
    assert session.leave({"west": "gone"})

    async def run() -> None:
        found = asyncio.create_task(hospitals.ask(request("north"), "summary", 1))
        await asyncio.sleep(1.0)  # twice its deadline
        assert not found.done()
        session.stop.set()
        with pytest.raises(StoppedAnalysisError):
            await found

    asyncio.run(run())
    assert journal.last("site_left", site="north") is None
