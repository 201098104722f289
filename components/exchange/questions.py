"""What an analysis asks of a site in a federation, and what the site answers, as both cross the wire.

::

    coordinator  --call: one question-->  site         signed, in the gateway's list of work, as every other request
    site         --reply--------------->  coordinator  signed; the answer itself is sealed to the coordinator

A question is an `AnalysisRequest` in JSON, an answer an `AnalysisAnswer`; here they are text. What may be in them,
`components.analytics` says.

Guarantees: an accepted call was signed by this coordinator for this site, federation and study; an accepted reply was
signed by the site for this very call (its nonce), and the answer is the one it names. The same question of an analysis,
asked again, is the same call to the last byte, so that what was answered to it meanwhile is found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from components.analytics.plan import AnalysisStudy
from components.analytics.records import AnalysisAnswer, AnalysisRequest
from components.errors import RefusedError
from components.exchange.keys import SigningKey, VerifyKey
from components.exchange.protocol import PROTOCOL
from components.exchange.signing import Signed, canonical, sign, verify_record
from components.mistakes import first_mistake
from components.rounds import Name, Record, Sha256

ANALYSE, REPLY = "analyse", "reply"
MOST_BYTES = 64 << 20  # of an answer

Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class QuestionCall(Record):
    """What the coordinator signs to put one question of an analysis to a site.

    Attributes:
        protocol: Version of the protocol it was written in.
        federation: Identifier of the federation.
        site: Whom it is for.
        training: Identifier of the analysis; like `round` and `attempt` for the slot that the reply is put into.
        round: Number of the question, counted from 1.
        attempt: How often it was put to the site, counted from 1.
        study_digest: SHA-256 of the study's canonical JSON.
        roster: The sites that are asked, in the order of their names.
        nonce: Unique for the call; the reply carries it back.
        question: The question, JSON.
    """

    protocol: int = PROTOCOL
    federation: Name
    site: Name
    training: Name
    round: Count
    attempt: Count
    study_digest: Sha256
    roster: Annotated[list[Name], Field(min_length=1)]
    nonce: Nonce
    question: str


class QuestionRequest(Record):
    """One question for one site, as it travels.

    Attributes:
        kind: What it is, among the requests to a site.
        site: Whom it is for.
        training: Identifier of the analysis.
        study: The study, whole: the site checks it against its own policy.
        call: The signed `QuestionCall`.
    """

    kind: Literal["analyse"] = "analyse"
    site: Name
    training: Name
    study: Annotated[AnalysisStudy, Field(strict=False)]
    call: Signed


class Reply(Record):
    """What a site signs about its answer to a call.

    Attributes:
        protocol: Version of the protocol it was written in.
        federation: Identifier of the federation.
        training: Identifier of the analysis.
        round: Number of the question.
        attempt: That of the call.
        site: Who answers.
        nonce: That of the call.
        answer_sha256: SHA-256 of the answer.
        sealed_sha256: SHA-256 of the sealed answer.
        sealed_bytes: Its size.
    """

    protocol: int = PROTOCOL
    federation: Name
    training: Name
    round: Count
    attempt: Count
    site: Name
    nonce: Nonce
    answer_sha256: Sha256
    sealed_sha256: Sha256
    sealed_bytes: Annotated[int, Field(ge=1)]


_COMMON = set(Reply.model_fields) & set(QuestionCall.model_fields)


@dataclass(frozen=True)
class Occasion:
    """On which occasion a question is put.

    Attributes:
        federation: Identifier of the federation.
        analysis: Identifier of the analysis.
        roster: The sites that are asked, in the order of their names.
        number: Number of the question, counted from 1.
        attempt: How often it is put to the site, counted from 1.
    """

    federation: str
    analysis: str
    roster: Sequence[str]
    number: int
    attempt: int = 1


def question_call(request: AnalysisRequest, occasion: Occasion) -> QuestionCall:
    """Return the call that puts a question; the same question on the same occasion makes the same call."""
    fields = {
        "federation": occasion.federation, "site": request.site, "training": occasion.analysis,
        "round": occasion.number, "attempt": occasion.attempt, "study_digest": request.study_digest,
        "roster": list(occasion.roster), "question": request.model_dump_json(),
    }  # fmt: skip
    return QuestionCall.model_validate({**fields, "nonce": hashlib.sha256(canonical(fields)).hexdigest()[:32]})


def reply_to(call: QuestionCall, *, answer_sha256: str, sealed_sha256: str, sealed_bytes: int) -> Reply:
    """Return what a site signs about its answer to a call."""
    digests = {"answer_sha256": answer_sha256, "sealed_sha256": sealed_sha256, "sealed_bytes": sealed_bytes}
    return Reply.model_validate({**call.model_dump(include=_COMMON), **digests})


def sign_question(call: QuestionCall, key: SigningKey) -> Signed:
    """Sign a call with the coordinator's key."""
    return sign(ANALYSE, call.model_dump(), key)


def verify_question(request: QuestionRequest, key: VerifyKey, *, federation: str) -> QuestionCall:
    """Return the call of a request, verified with the coordinator's pinned key.

    Raises:
        RefusedError: If another key signed it, it is for another federation, site, analysis or study, or the question
            is none.
    """
    call = verify_record(ANALYSE, request.call, key, QuestionCall)
    expected = (federation, request.site, request.training, request.study.digest)
    if (call.federation, call.site, call.training, call.study_digest) != expected:
        raise RefusedError("the question is for another federation, site, analysis or study")
    try:
        AnalysisRequest.model_validate_json(call.question)
    except ValidationError as error:
        raise RefusedError(f"this is no question of an analysis: {first_mistake(error)}") from None
    return call


def claimed_question(signed: Signed) -> QuestionCall | None:
    """Return what a signed call claims to be, nothing verified: only for saying that it is refused."""
    try:
        return QuestionCall.model_validate_json(signed.body)
    except ValidationError:
        return None


def reply_context(call: QuestionCall) -> bytes:
    """Return the context that the answer to a call is sealed for; both sides know it before they see the answer."""
    return canonical({"call": call.model_dump()})


def sign_reply(reply: Reply, key: SigningKey) -> Signed:
    """Sign a reply with the site's key."""
    return sign(REPLY, reply.model_dump(), key)


def verify_reply(signed: Signed, key: VerifyKey, call: QuestionCall) -> Reply:
    """Return a site's reply, verified with its own key and as the reply to this call.

    Raises:
        RefusedError: If another key signed it, or it replies to another call.
    """
    reply = verify_record(REPLY, signed, key, Reply)
    if reply.model_dump(include=_COMMON) != call.model_dump(include=_COMMON):
        raise RefusedError(f"the reply of {call.site} is to another question")
    return reply


def read_answer(text: bytes, reply: Reply, call: QuestionCall) -> AnalysisAnswer:
    """Return the answer that was sealed, if it is the one the reply names, and answers this question.

    Raises:
        RefusedError: If it is not.
    """
    if hashlib.sha256(text).hexdigest() != reply.answer_sha256:
        raise RefusedError(f"the sealed answer of {call.site} is not the one it signed")
    try:
        answer = AnalysisAnswer.model_validate_json(text)
    except ValidationError as error:
        raise RefusedError(f"the answer of {call.site} is none: {first_mistake(error)}") from None
    asked = hashlib.sha256(call.question.encode()).hexdigest()
    if (answer.site, answer.request_digest) != (call.site, asked):
        raise RefusedError(f"the answer of {call.site} is to another question")
    return answer
