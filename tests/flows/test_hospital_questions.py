"""A hospital answers the coordinator's questions about analyses that it has accepted, and says no to all others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.analytics.plan import AnalysisStudy
from components.analytics.records import AnalysisAnswer, AnalysisRequest, AskSummary
from components.exchange.keys import SigningKey
from components.exchange.questions import (
    MOST_BYTES,
    Occasion,
    QuestionRequest,
    question_call,
    read_answer,
    reply_context,
    sign_question,
    verify_reply,
)
from components.exchange.sealing import open_file, sealed_size
from components.exchange.signing import read_signed
from components.exchange.site_request import request_text
from components.gateway.records import WorkItem, slot_of_question
from components.gateway.slots import SealedSlots
from components.governance.acceptances import Acceptance, Acceptances
from components.governance.identity_files import SiteFolder
from components.journal import Entry, read
from flows.hospital import Hospital
from tests.components.analytics.hospitals import patients, study
from tests.components.gateway.gates import Gate, gates

pytestmark = pytest.mark.timeout(120)
STUDY = study(["north", "south", "west"], disclosure={"smallest_cell": 5})


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gates(tmp_path_factory.mktemp("federation")) as build:
        yield build()


@pytest.fixture(scope="module")
def north(gate: Gate) -> SiteFolder:
    """A hospital with a table, which has accepted the study."""
    folder = gate.enrol("north")
    data = gate.folder / "data"
    data.mkdir()
    patients(1, 150).to_csv(data / "patients.csv", index=False)
    write_settings(folder, data)
    Acceptances(folder.state).give_analysis("trial", STUDY.digest, Acceptance(by="anna", given="now", reason="vote"))
    return folder


def write_settings(folder: SiteFolder, data: Path, **changes: Any) -> None:
    (folder.state / "hospital.yaml").write_text(yaml.safe_dump({"data": {"*": str(data)}, **changes}))


def asked(gate: Gate, folder: SiteFolder, number: int, **changes: Any) -> AnalysisAnswer:
    """Have the hospital asked through its list of work; return what it delivers, opened as the coordinator does."""
    whole: AnalysisStudy = changes.get("whole", STUDY)
    roster = changes.get("roster", ["north", "south", "west"])
    question = AnalysisRequest(study="trial", study_digest=whole.digest, site="north", question=AskSummary())
    call = question_call(question, Occasion("ward", "trial-1", roster, number))
    signed = sign_question(call, changes.get("key", gate.secrets.signing))
    text = request_text(QuestionRequest(site="north", training="trial-1", study=whole, call=signed))
    if "instead" in changes:
        text = changes["instead"](text)
    slot, slots = slot_of_question(call), SealedSlots(gate.exchange / "sealed")
    gate.grants.open_slot(slot, max_bytes=sealed_size(MOST_BYTES), request=text)

    async def work() -> bytes:
        hospital = Hospital(folder.state)
        try:
            async with asyncio.timeout(60):
                while (found := slots.envelope(slot)) is None:
                    hospital.take([WorkItem(slot=slot, request=text)])
                    await asyncio.sleep(0.02)
            return found
        finally:
            await asyncio.gather(*hospital._works.values(), return_exceptions=True)
            hospital.close()

    reply = verify_reply(read_signed(asyncio.run(work())), folder.read_keys().public.signing, call)
    opened = gate.folder / "opened.json"
    open_file(slots.payload(slot), opened, gate.secrets.sealing, reply_context(call), MOST_BYTES)
    assert list((folder.state / "outgoing").glob("*")) == []
    return read_answer(opened.read_bytes(), reply, call)


def remembered(folder: SiteFolder) -> list[Entry]:
    path = folder.state / "analytics" / "questions.jsonl"
    return list(read(path)) if path.exists() else []


def test_a_question_of_an_accepted_analysis_is_answered_sealed_and_journalled(gate: Gate, north: SiteFolder) -> None:
    answer = asked(gate, north, 1)
    assert (answer.status, answer.reason) == ("done", "")
    assert answer.finding is not None
    assert [entry.event for entry in remembered(north)] == ["cohort", "question"]
    events = [entry for entry in read(north.state / "journal.jsonl") if entry.event.startswith(("analysis", "reply"))]
    assert [entry.event for entry in events] == ["analysis_allowed", "reply_delivered"]
    assert {"by": "anna", "reason": "vote", "study": "trial"}.items() <= events[0].data.items()


def test_a_forged_question_is_answered_with_no_and_nothing_is_read(gate: Gate, north: SiteFolder) -> None:
    before = remembered(north)
    answer = asked(gate, north, 2, key=SigningKey.generate())
    assert answer.status == "refused"
    assert "was signed with key" in answer.reason
    assert remembered(north) == before


def test_a_version_that_was_not_accepted_is_refused_by_its_digest(gate: Gate, north: SiteFolder) -> None:
    other = study(["north", "south", "west"], disclosure={"smallest_cell": 5}, methods=["cox"])
    answer = asked(gate, north, 3, whole=other)
    assert answer.status == "refused"
    assert answer.reason == (
        f"its administrator has not accepted this version of trial, {other.digest[:12]}: wardround hospital accept"
    )


def test_what_was_accepted_can_be_taken_back(gate: Gate, north: SiteFolder) -> None:
    acceptances = Acceptances(north.state)
    given = acceptances.analysis("trial", STUDY.digest)
    assert given is not None
    assert acceptances.take_back_analysis("trial", STUDY.digest)
    assert "has not accepted" in asked(gate, north, 4).reason
    acceptances.give_analysis("trial", STUDY.digest, given)
    assert asked(gate, north, 5).status == "done"


def test_an_analysis_of_too_few_sites_is_refused(gate: Gate, north: SiteFolder) -> None:
    answer = asked(gate, north, 6, roster=["north"])
    assert answer.status == "refused"
    assert "asks for 2" in answer.reason


def test_a_question_of_a_newer_version_is_answered_with_the_reason(gate: Gate, north: SiteFolder) -> None:
    def newer(text: str) -> str:
        fields = json.loads(text)
        fields["study"]["analysis"]["of_tomorrow"] = 1
        return json.dumps(fields)

    answer = asked(gate, north, 7, instead=newer)
    assert answer.status == "refused"
    assert "study.analysis.of_tomorrow" in answer.reason
    assert "this hospital runs WardRound" in answer.reason


def test_the_hospitals_own_policy_holds_and_is_told(gate: Gate, north: SiteFolder) -> None:
    write_settings(north, gate.folder / "data", disclosure={"smallest_cell": 100})
    answer = asked(gate, north, 8)
    write_settings(north, gate.folder / "data")
    assert answer.policy is not None
    assert answer.policy.smallest_cell == 100
    assert answer.finding is not None
    assert [arm.patients for arm in answer.finding.arms] == [None, None]  # type: ignore[union-attr]


def test_a_table_without_names_of_columns_tells_nothing_of_its_first_patient(gate: Gate, north: SiteFolder) -> None:
    other = gate.folder / "headless"
    other.mkdir()
    frame = patients(1, 150).assign(name="Qzdoe Janeqz")
    frame.to_csv(other / "patients.csv", index=False, header=False)
    write_settings(north, other)
    answer = asked(gate, north, 9)
    write_settings(north, gate.folder / "data")
    assert answer.status == "refused"
    assert answer.reason.startswith("the table has no column time, died, arm, age, stage; it has none of the others.")
    assert "Qzdoe" not in answer.model_dump_json()


def test_a_table_that_is_not_there_says_so_without_its_folder(gate: Gate, north: SiteFolder) -> None:
    write_settings(north, gate.folder / "nowhere")
    answer = asked(gate, north, 10)
    write_settings(north, gate.folder / "data")
    assert answer.reason == "there is no table patients.csv in the site's folder"


def test_a_hospital_that_names_no_data_for_the_study_says_so_before_anything_else(
    gate: Gate, north: SiteFolder
) -> None:
    other = study(["north", "south", "west"], disclosure={"smallest_cell": 7})
    (north.state / "hospital.yaml").write_text(yaml.safe_dump({"data": {"chest": "/films"}}))
    answer = asked(gate, north, 40, whole=other)
    assert (answer.status, answer.has_data, answer.reason) == (
        "refused",
        False,
        "north has no data for the study trial",
    )
    write_settings(north, gate.folder / "data")
    assert asked(gate, north, 41, whole=other).has_data
