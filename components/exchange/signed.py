"""What coordinator and sites sign to each other: plans, orders and the envelopes of updates.

::

    coordinator  --plan, order-->  site       which round, from which weights, with which architecture
    site         --envelope----->  coordinator  which update, made for which order, and the site's answer

Each names the federation, and the version of the protocol it was written in. Who receives one verifies the
signature with the key that was pinned, and then each field against what it knows itself: nothing is taken from
the record that could be known without it.

Guarantees: an accepted envelope was signed by the site, for this very order (its nonce), and no field of it was
changed; an accepted plan or order was signed by this coordinator for this federation. With `require_newer`, an
old plan is not accepted again in the place of a new one, as long as the site's journal is kept.

Not guaranteed: that two sites were given the same plan (compare `Signed.sha256`), that a nonce was not used
(the coordinator's journal knows), or anything about the content of an update.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from components.errors import RefusedError, SeenRoundError
from components.exchange.keys import SealingPublicKey, SigningKey, VerifyKey
from components.exchange.protocol import PROTOCOL
from components.exchange.signing import Signed, canonical, sign, verify_record
from components.rounds import Answer, Name, Order, Record, RoundPlan, Sha256

UPDATE, PLAN, ORDER = "update", "plan", "order"


class UpdateEnvelope(Record):
    """What a site says about its answer in one round, and about the sealed update that belongs to it.

    Attributes:
        protocol: Version of the protocol it was written in.
        federation: Identifier of the federation.
        study_digest: SHA-256 of the study's canonical JSON.
        training: Identifier of the training.
        round: Number of the round, counted from 1.
        attempt: Number of the attempt, counted from 1.
        site: Who answers.
        nonce: That of the order it answers.
        parent_digest: Digest of the weights that the work began with.
        payload_digest: SHA-256 of the update before it was sealed; None if there is no update (a refusal, a
            failure, an evaluation), and then so are the two that follow.
        sealed_sha256: SHA-256 of the sealed update.
        sealed_bytes: Size of the sealed update.
        answer: The answer.
    """

    protocol: int = PROTOCOL
    federation: Name
    study_digest: Sha256
    training: Name
    round: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]
    site: Name
    nonce: Annotated[str, Field(min_length=1, max_length=64)]
    parent_digest: Sha256
    payload_digest: Sha256 | None = None
    sealed_sha256: Sha256 | None = None
    sealed_bytes: Annotated[int, Field(ge=1)] | None = None
    answer: Answer

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> Self:
        """Refuse an envelope whose parts contradict each other."""
        if (self.answer.site, self.answer.round, self.answer.nonce) != (self.site, self.round, self.nonce):
            raise ValueError("the answer is for another site, round or nonce than its envelope")
        payload = [self.payload_digest, self.sealed_sha256, self.sealed_bytes]
        if any(part is None for part in payload) and any(part is not None for part in payload):
            raise ValueError("payload_digest, sealed_sha256 and sealed_bytes are given together or not at all")
        stated = self.answer.update.file_sha256 if self.answer.update else None
        if stated != self.payload_digest:
            raise ValueError("payload_digest is not that of the update which the answer states")
        return self


class SignedPlan(Record):
    """A plan as the coordinator signs it: the same bytes for every site of the round.

    Attributes:
        protocol: Version of the protocol it was written in.
        federation: Identifier of the federation.
        plan: The round.
        architecture: SHA-256 of the model's architecture.
        sealing_key: Fingerprint of the coordinator's key to which updates are sealed.
    """

    protocol: int = PROTOCOL
    federation: Name
    plan: RoundPlan
    architecture: Sha256
    sealing_key: Sha256


class SignedOrder(Record):
    """An order as the coordinator signs it: one for each site and piece of work.

    Attributes:
        protocol: Version of the protocol it was written in.
        federation: Identifier of the federation.
        order: The order, with the plan it belongs to.
    """

    protocol: int = PROTOCOL
    federation: Name
    order: Order


def sign_update(envelope: UpdateEnvelope, key: SigningKey) -> Signed:
    """Sign an envelope with the site's key; `ValueError` if it holds a number that is not finite."""
    return sign(UPDATE, envelope.model_dump(), key)


def sign_plan(plan: SignedPlan, key: SigningKey) -> Signed:
    """Sign a plan with the coordinator's key."""
    return sign(PLAN, plan.model_dump(), key)


def sign_order(order: SignedOrder, key: SigningKey) -> Signed:
    """Sign an order with the coordinator's key."""
    return sign(ORDER, order.model_dump(), key)


def update_context(federation: str, order: Order) -> bytes:
    """Return the context that an update for this order is sealed for; both sides know it before they see the file."""
    return canonical({"federation": federation, "order": order.model_dump()})


def read_update(signed: Signed, key: VerifyKey) -> UpdateEnvelope:
    """Return an envelope whose signature and form were verified, but not whether it was asked for.

    Raises:
        RefusedError: If it was not signed by this site's key, speaks another protocol, or is no envelope.
    """
    return verify_record(UPDATE, signed, key, UpdateEnvelope)


def verify_update(signed: Signed, key: VerifyKey, *, federation: str, order: Order) -> UpdateEnvelope:
    """Return an envelope that answers an order.

    Args:
        signed: What the site put into its slot.
        key: The key of the site that was asked, as it was pinned.
        federation: Identifier of the federation.
        order: What the site was asked.

    Raises:
        RefusedError: As `read_update`, or if a field is not that of the order; the message names the field.
    """
    envelope = read_update(signed, key)
    plan = order.plan
    _require(
        f"the envelope of {order.site}",
        envelope,
        federation=federation,
        study_digest=plan.study_digest,
        training=plan.training,
        round=plan.round,
        attempt=plan.attempt,
        site=order.site,
        nonce=order.nonce,
        parent_digest=order.weights_digest,
    )
    _require(f"the answer of {order.site}", envelope.answer, kind=order.kind)
    return envelope


def verify_plan(
    signed: Signed,
    key: VerifyKey,
    *,
    federation: str,
    study_digest: str,
    architectures: Collection[str],
    sealing_key: SealingPublicKey,
) -> SignedPlan:
    """Return a plan that a site may act on; for `require_newer` the site looks up what it accepted last.

    Args:
        signed: The plan as it came.
        key: The coordinator's signing key, as it was pinned.
        federation: Identifier of the federation.
        study_digest: Digest of the study that the site approved.
        architectures: Digests of the architectures that the site approved for it.
        sealing_key: The coordinator's sealing key, as it was pinned.

    Raises:
        RefusedError: If it was not signed by this key, speaks another protocol, or is for another federation,
            study, architecture or sealing key.
    """
    plan = verify_record(PLAN, signed, key, SignedPlan)
    _require("the plan", plan, federation=federation, sealing_key=sealing_key.fingerprint)
    _require("the plan", plan.plan, study_digest=study_digest)
    if plan.architecture not in architectures:
        raise RefusedError(f"the plan is for an architecture that was not approved here: {plan.architecture}")
    return plan


def verify_order(signed: Signed, key: VerifyKey, *, plan: SignedPlan, site: str) -> Order:
    """Return an order that belongs to a verified plan.

    Args:
        signed: The order as it came.
        key: The coordinator's signing key, as it was pinned.
        plan: What `verify_plan` returned.
        site: Who this site is.

    Raises:
        RefusedError: If it was not signed by this key, speaks another protocol, or is for another federation,
            plan or site; or asks for training from other weights than the plan, or by a site not in its roster.
    """
    found = verify_record(ORDER, signed, key, SignedOrder)
    order = found.order
    _require("the order", found, federation=plan.federation)
    _require("the order", order, site=site)
    if order.plan != plan.plan:
        raise RefusedError("the order is for another plan than the one it came with")
    if order.kind == "train":
        _require("the order", order, weights_digest=plan.plan.base_digest)
        if site not in plan.plan.roster:
            raise RefusedError(f"{site} is ordered to train in a round whose roster does not have it")
    return order


def claimed_order(signed: Signed) -> Order | None:
    """Return what a signed order claims to be, nothing verified: only for saying that it is refused."""
    try:
        return SignedOrder.model_validate_json(signed.body).order
    except ValidationError:
        return None


def require_newer(plan: RoundPlan, last: RoundPlan | None) -> None:
    """Refuse a plan that is older than the last one a site accepted in the same training.

    The last plan itself is accepted again, if nothing in it changed: work that was interrupted is asked for twice.

    Args:
        plan: The plan that is offered.
        last: The plan of this training that the site accepted last, from its journal; None if there is none.

    Raises:
        SeenRoundError: If it is older, or the same round and attempt with another content.
        RefusedError: If it is of another study.
        ValueError: If `last` is of another training.
    """
    if last is None or plan == last:
        return
    if plan.training != last.training:
        raise ValueError(f"last must be a plan of training {plan.training!r}, given one of {last.training!r}")
    _require("the plan", plan, study_digest=last.study_digest)
    offered, known = (plan.round, plan.attempt), (last.round, last.attempt)
    if offered > known:
        return
    problem = "is older than" if offered < known else "has the number, but not the content, of"
    raise SeenRoundError(
        f"the plan for round {plan.round}, attempt {plan.attempt} of {plan.training} {problem} the last one accepted "
        f"here (round {last.round}, attempt {last.attempt}): was the coordinator restored from an older backup?"
    )


def _require(what: str, record: Record, **expected: Any) -> None:
    """Refuse a record with another value in a field."""
    for field, value in expected.items():
        if getattr(record, field) != value:
            raise RefusedError(f"{what} has {field} {getattr(record, field)}, expected {value}")
