"""A question is this coordinator's, for this site and study; a reply is this site's, to this question, to the byte."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from components.analytics.records import AnalysisAnswer, AnalysisRequest, AskScore, AskSummary
from components.errors import RefusedError
from components.exchange.keys import SigningKey
from components.exchange.questions import (
    Occasion,
    QuestionCall,
    QuestionRequest,
    Reply,
    claimed_question,
    question_call,
    read_answer,
    reply_to,
    sign_question,
    sign_reply,
    verify_question,
    verify_reply,
)
from components.exchange.signing import Signed, sign
from components.exchange.site_request import MAX_BYTES, claimed_work, parse_request, request_text
from tests.components.analytics.hospitals import study

COORDINATOR, NORTH, OTHER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
STUDY = study(["north", "south"])
OCCASION = Occasion("ward", "trial-1", ["north", "south"], 4)
ASKED = AnalysisRequest(study="trial", study_digest=STUDY.digest, site="north", question=AskSummary())
CALL = question_call(ASKED, OCCASION)
ANSWER = AnalysisAnswer(site="north", request_digest=hashlib.sha256(CALL.question.encode()).hexdigest(), status="done")


def request(asked: QuestionCall = CALL, key: SigningKey = COORDINATOR, **changes: Any) -> QuestionRequest:
    signed = sign_question(asked, key)
    return QuestionRequest.model_validate(
        {"site": "north", "training": "trial-1", "study": STUDY, "call": signed, **changes}
    )


def reply(call: QuestionCall = CALL, answer: AnalysisAnswer = ANSWER) -> Reply:
    digest = hashlib.sha256(answer.model_dump_json().encode()).hexdigest()
    return reply_to(call, answer_sha256=digest, sealed_sha256="a" * 64, sealed_bytes=200)


def test_a_question_crosses_as_json_and_is_the_same_to_the_last_byte_when_it_is_asked_again() -> None:
    text = request_text(request())
    assert request_text(request(question_call(ASKED, OCCASION))) == text
    arrived = parse_request(text, site="north")
    assert isinstance(arrived, QuestionRequest)
    call = verify_question(arrived, COORDINATOR.public, federation="ward")
    assert AnalysisRequest.model_validate_json(call.question) == ASKED
    assert claimed_work(text, site="north") == claimed_question(arrived.call) == CALL
    assert claimed_work(text, site="south") is None


def test_another_number_attempt_roster_or_question_has_another_nonce() -> None:
    others = [
        question_call(ASKED, Occasion("ward", "trial-1", ["north", "south"], 5)),
        question_call(ASKED, Occasion("ward", "trial-1", ["north", "south"], 4, 2)),
        question_call(ASKED, Occasion("ward", "trial-1", ["north"], 4)),
        question_call(ASKED.model_copy(update={"question": AskScore(covariates=[], coefficients=[])}), OCCASION),
    ]
    assert len({call.nonce for call in (CALL, *others)}) == 5


def changed(**changes: object) -> QuestionCall:
    return CALL.model_copy(update=changes)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (request(key=OTHER), "signed with key"),
        (request(study=study(["north", "south"], methods=["cox"])), "another federation, site, analysis or"),
        (request(training="trial-2"), "another federation, site, analysis or"),
        (request(changed(site="south")), "another federation, site, analysis or"),
        (request(changed(federation="other")), "another federation, site, analysis or"),
        (request(changed(question="{}")), "no question of an analysis"),
        (request(call=sign("prepare", CALL.model_dump(), COORDINATOR)), "offered where 'analyse' is expected"),
    ],
)
def test_a_question_that_is_forged_or_of_something_else_is_refused(found: QuestionRequest, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        verify_question(found, COORDINATOR.public, federation="ward")


def test_a_question_that_was_changed_on_its_way_is_refused() -> None:
    whole = request()
    other = Signed(**{**whole.call.model_dump(), "body": whole.call.body.replace("summary", "logrank")})
    with pytest.raises(RefusedError, match="signature"):
        verify_question(whole.model_copy(update={"call": other}), COORDINATOR.public, federation="ward")


def test_a_question_that_is_too_long_is_not_sent() -> None:
    long = AskScore(covariates=["arm"], coefficients=[0.123456789] * (MAX_BYTES // 10))
    with pytest.raises(ValueError, match="sites accept"):
        request_text(request(question_call(ASKED.model_copy(update={"question": long}), OCCASION)))


def test_a_reply_is_the_sites_own_to_this_question() -> None:
    assert verify_reply(sign_reply(reply(), NORTH), NORTH.public, CALL) == reply()
    with pytest.raises(RefusedError, match="signed with key"):
        verify_reply(sign_reply(reply(), OTHER), NORTH.public, CALL)
    for change in ({"round": 5}, {"attempt": 2}, {"training": "trial-2"}, {"nonce": "0" * 32}, {"site": "south"}):
        other = reply().model_copy(update=change)
        with pytest.raises(RefusedError, match="is to another question"):
            verify_reply(sign_reply(other, NORTH), NORTH.public, CALL)


def test_an_answer_is_the_one_that_was_signed_and_to_what_was_asked() -> None:
    text = ANSWER.model_dump_json().encode()
    assert read_answer(text, reply(), CALL) == ANSWER
    with pytest.raises(RefusedError, match="not the one it signed"):
        read_answer(text.replace(b"done", b"gone"), reply(), CALL)
    for change in ({"site": "south"}, {"request_digest": "0" * 64}):
        other = ANSWER.model_copy(update=change)
        with pytest.raises(RefusedError, match="is to another question"):
            read_answer(other.model_dump_json().encode(), reply(answer=other), CALL)
