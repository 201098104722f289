"""What the coordinator asks of a site in a federation, as it crosses the wire: bounded, strict JSON.

A request travels as the only parameter of a Prefect run. The site reads it here, whatever the server
says it has checked already; what it asks for is signed by the coordinator and verified by
`components.exchange.signed`, so that whoever runs the servers in between can at most withhold it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from components.dispatch import Preparation
from components.errors import RefusedError
from components.exchange.keys import SigningKey, VerifyKey
from components.exchange.protocol import PROTOCOL
from components.exchange.questions import ANALYSE, QuestionCall, QuestionRequest
from components.exchange.signed import SignedOrder
from components.exchange.signing import Signed, sign, verify_record
from components.mistakes import first_mistake
from components.rounds import Name, Order, Record, Sha256
from components.study import Study

MAX_BYTES = 2 << 20  # the names of 50,000 columns are in a study
SHOWN_BYTES = 256 * 1024  # Prefect refuses parameters above 512 KiB
PARAMETER = "request"
PREPARE, PREPARATION = "prepare", "preparation"

Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class SiteRequest(Record):
    """One piece of work for one site.

    Attributes:
        kind: ``prepare`` (open the data and say what was found), ``train`` or ``evaluate``.
        site: Whom it is for.
        training: Identifier of the training.
        study: The study, whole: the site checks it against its own policy.
        call: The signed order; for ``prepare`` the signed `Call`.
        plan: The signed plan the order belongs to; not for ``prepare``.
    """

    kind: Literal["prepare", "train", "evaluate"]
    site: Name
    training: Name
    study: Annotated[Study, Field(strict=False)]
    call: Signed
    plan: Signed | None = None

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> Self:
        """Refuse an order without its plan."""
        if (self.plan is None) != (self.kind == PREPARE):
            raise ValueError("a plan goes with train and evaluate, and only with them")
        return self


AnyRequest = SiteRequest | QuestionRequest


class Call(Record):
    """What the coordinator signs to have a site prepare for a training.

    Attributes:
        protocol: Version of the protocol it was written in.
        federation: Identifier of the federation.
        site: Whom it is for.
        training: Identifier of the training.
        study_digest: SHA-256 of the study's canonical JSON.
        nonce: Unique for the call; the answer carries it back.
    """

    protocol: int = PROTOCOL
    federation: Name
    site: Name
    training: Name
    study_digest: Sha256
    nonce: Nonce


class Prepared(Record):
    """What a site signs to answer a `Call`.

    Attributes:
        call: The call it answers.
        training: Its training; like `site`, `round` and `attempt` for the slot it is put into.
        preparation: What the site found.
    """

    protocol: int = PROTOCOL
    federation: Name
    training: Name
    round: Literal[1] = 1
    attempt: Literal[1] = 1
    site: Name
    call: Call
    preparation: Preparation


def request_text(request: AnyRequest) -> str:
    """Return a request as JSON.

    Raises:
        ValueError: If it is longer than a site accepts.
    """
    text = request.model_dump_json()
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"a request of {len(text.encode())} bytes; sites accept {MAX_BYTES}")
    return text


def request_parameters(request: AnyRequest) -> dict[str, Any]:
    """Return a request as the parameters of a run; of one that is too long for them, whom it asks for what.

    Raises:
        ValueError: If it is longer than a site accepts.
    """
    text = request_text(request)
    if len(text) > SHOWN_BYTES:
        return {PARAMETER: {"kind": request.kind, "site": request.site, "training": request.training}}
    return {PARAMETER: json.loads(text)}


def read_request(parameters: Mapping[str, Any], *, site: str) -> AnyRequest:
    """Read the parameters of a run that arrived at a site; no signature is verified yet.

    Args:
        parameters: As the server handed them over.
        site: The site that reads.

    Raises:
        RefusedError: If they are anything but one valid request for this site, and no longer than a run's may be.
    """
    if set(parameters) != {PARAMETER}:
        raise RefusedError(f"a run has exactly one parameter, {PARAMETER!r}; this one has {_names(parameters)}")
    try:
        text = json.dumps(parameters[PARAMETER], allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise RefusedError("the request is not JSON") from None
    if len(text) > SHOWN_BYTES:
        raise RefusedError(f"the request has {len(text)} bytes; at most {SHOWN_BYTES} are accepted of a run")
    return parse_request(text, site=site)


def parse_request(text: str, *, site: str) -> AnyRequest:
    """Read a request; no signature is verified yet.

    Args:
        text: JSON.
        site: The site that reads.

    Raises:
        RefusedError: If it is too long, not one valid request, or for another site.
    """
    if len(text) > MAX_BYTES:
        raise RefusedError(f"the request has {len(text)} bytes; at most {MAX_BYTES} are accepted")
    record = QuestionRequest if _kind(text) == ANALYSE else SiteRequest
    try:
        request = record.model_validate_json(text)
    except ValidationError as error:
        raise RefusedError(f"the request is not valid: {first_mistake(error)}") from None
    if request.site != site:
        raise RefusedError(f"the request is for {request.site}, this is {site}")
    return request


def claimed_call(request: SiteRequest) -> Call | None:
    """Return what a request to prepare claims to be, nothing verified: only for saying that it is refused."""
    try:
        return Call.model_validate_json(request.call.body)
    except ValidationError:
        return None


def claimed_work(text: str, *, site: str) -> Call | QuestionCall | Order | None:
    """Return what a request that cannot be read claims to ask of a site, nothing verified: only for refusing it.

    A newer coordinator's study may have fields that are not known here, while its call and order can be read.
    """
    if len(text) > MAX_BYTES:
        return None
    try:
        body = json.loads(text)["call"]["body"]
        fields = json.loads(body)
        if "order" in fields:
            found: Call | QuestionCall | Order = SignedOrder.model_validate_json(body).order
        else:
            found = (QuestionCall if "question" in fields else Call).model_validate_json(body)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if found.site == site else None


def sign_call(call: Call, key: SigningKey) -> Signed:
    """Sign a call with the coordinator's key."""
    return sign(PREPARE, call.model_dump(), key)


def verify_call(request: SiteRequest, key: VerifyKey, *, federation: str) -> Call:
    """Return the call of a request to prepare, verified with the coordinator's pinned key.

    Raises:
        RefusedError: If another key signed it, or it is for another federation, site, training or study.
    """
    call = verify_record(PREPARE, request.call, key, Call)
    expected = (federation, request.site, request.training, request.study.digest)
    if (call.federation, call.site, call.training, call.study_digest) != expected:
        raise RefusedError("the call to prepare is for another federation, site, training or study")
    return call


def sign_prepared(prepared: Prepared, key: SigningKey) -> Signed:
    """Sign a preparation with the site's key."""
    return sign(PREPARATION, prepared.model_dump(), key)


def verify_prepared(signed: Signed, key: VerifyKey, call: Call) -> Preparation:
    """Return what a site found, verified with its own key and as the answer to this call.

    Raises:
        RefusedError: If another key signed it, or it answers another call.
    """
    prepared = verify_record(PREPARATION, signed, key, Prepared)
    if prepared.call != call or (prepared.site, prepared.preparation.site) != (call.site, call.site):
        raise RefusedError(f"the preparation of {call.site} answers another call")
    return prepared.preparation


def _kind(text: str) -> Any:
    """Return what a request says it is, nothing checked."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found.get("kind") if isinstance(found, dict) else None


def _names(parameters: Mapping[str, Any]) -> str:
    return ", ".join(sorted(repr(str(name)[:40]) for name in parameters)[:5]) or "none"
