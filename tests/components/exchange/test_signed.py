from typing import Any

import pytest
from pydantic import ValidationError

from components.errors import RefusedError
from components.exchange.keys import SealingKey, SigningKey
from components.exchange.protocol import PROTOCOL
from components.exchange.signed import (
    SignedOrder,
    SignedPlan,
    UpdateEnvelope,
    read_update,
    require_newer,
    sign_order,
    sign_plan,
    sign_update,
    update_context,
    verify_order,
    verify_plan,
    verify_update,
)
from components.exchange.signing import read_signed, sign
from components.rounds import Answer, Order, RoundPlan, UpdateManifest

SITE, COORDINATOR, STRANGER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
SEALING = SealingKey.generate().public
A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
PLAN = RoundPlan(
    study="chest",
    study_digest=A,
    training="chest-1",
    round=3,
    attempt=2,
    base_digest=B,
    roster=["north", "south"],
    quorum=2,
    deadline_s=60.0,
    instructions={"proximal_weight": 0.1, "average": True},
)
ORDER = Order(kind="train", site="north", plan=PLAN, weights_digest=B, nonce="n1")
UPDATE = UpdateManifest(weights_digest=C, file_sha256=C, bytes=100, weight=3.0, steps=1, loss_sum=0.1)
ANSWER = Answer(kind="train", site="north", round=3, nonce="n1", status="done", update=UPDATE, seconds={"train": 1.5})


def envelope(**changes: Any) -> UpdateEnvelope:
    fields: dict[str, Any] = {
        "federation": "fed-1",
        "study_digest": A,
        "training": "chest-1",
        "round": 3,
        "attempt": 2,
        "site": "north",
        "nonce": "n1",
        "parent_digest": B,
        "payload_digest": C,
        "sealed_sha256": D,
        "sealed_bytes": 204,
        "answer": ANSWER,
    }
    return UpdateEnvelope(**{**fields, **changes})


def with_answer(**changes: Any) -> dict[str, Any]:
    """The changes, made in the envelope and in its answer alike."""
    answer = ANSWER.model_copy(update={key: value for key, value in changes.items() if key in Answer.model_fields})
    return {**{key: value for key, value in changes.items() if key in UpdateEnvelope.model_fields}, "answer": answer}


def signed_plan(**changes: Any) -> SignedPlan:
    fields = {"federation": "fed-1", "plan": PLAN, "architecture": C, "sealing_key": SEALING.fingerprint}
    return SignedPlan(**{**fields, **changes})


def test_an_envelope_travels_and_is_accepted() -> None:
    text = sign_update(envelope(), SITE).model_dump_json()
    found = verify_update(read_signed(text), SITE.public, federation="fed-1", order=ORDER)
    assert found == envelope()
    assert found.answer == ANSWER


@pytest.mark.parametrize("status", ["refused", "failed"])
def test_a_refusal_travels_without_an_update(status: Any) -> None:
    answer = Answer(kind="train", site="north", round=3, nonce="n1", status=status, reason="policy")
    sent = envelope(answer=answer, payload_digest=None, sealed_sha256=None, sealed_bytes=None)
    found = verify_update(sign_update(sent, SITE), SITE.public, federation="fed-1", order=ORDER)
    assert found.answer == answer


CHANGES = [
    {"federation": "fed-2"},
    {"study_digest": D},
    {"training": "chest-2"},
    {"attempt": 1},
    {"parent_digest": C},
    with_answer(round=4),
    with_answer(site="south"),
    with_answer(nonce="n2"),
    with_answer(kind="evaluate"),
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes))
def test_a_truly_signed_envelope_for_something_else_is_refused_and_the_field_named(changes: dict[str, Any]) -> None:
    named = "kind" if changes.keys() == {"answer"} else next(iter(changes))
    with pytest.raises(RefusedError, match=rf"of north has {named} .*, expected "):
        verify_update(sign_update(envelope(**changes), SITE), SITE.public, federation="fed-1", order=ORDER)


def test_an_envelope_signed_by_another_is_refused() -> None:
    with pytest.raises(RefusedError, match="was signed with key"):
        verify_update(sign_update(envelope(), STRANGER), SITE.public, federation="fed-1", order=ORDER)


CONTRADICTIONS = [
    {"answer": ANSWER.model_copy(update={"site": "south"})},
    {"answer": ANSWER.model_copy(update={"round": 4})},
    {"answer": ANSWER.model_copy(update={"nonce": "n2"})},
    {"sealed_sha256": None},
    {"payload_digest": None},
    {"sealed_bytes": None},
    {"payload_digest": D},
    {"answer": ANSWER.model_copy(update={"update": None})},
    {"payload_digest": None, "sealed_sha256": None, "sealed_bytes": None},
]


@pytest.mark.parametrize("changes", CONTRADICTIONS, ids=lambda changes: "-".join(changes))
def test_an_envelope_that_contradicts_itself_is_refused_by_whoever_reads_it(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"answer is for another|together or not at all|not that of the update"):
        envelope(**changes)
    fields = {
        **envelope().model_dump(),
        **{key: getattr(value, "model_dump", lambda v=value: v)() for key, value in changes.items()},
    }
    with pytest.raises(RefusedError, match="this is not a signed update"):
        read_update(sign("update", fields, SITE), SITE.public)


@pytest.mark.parametrize(
    "wrong", [{"extra": 1}, {"x" * 5000: 1}, {"sealed_bytes": 0}, {"site": "../x"}, {"round": "3"}]
)
def test_a_signed_record_of_another_form_is_refused_in_few_words(wrong: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="this is not a signed update") as caught:
        read_update(sign("update", {**envelope().model_dump(), **wrong}, SITE), SITE.public)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("deep", [9, 300])
def test_an_answer_of_lists_within_lists_is_refused(deep: int) -> None:
    details: Any = []
    for _ in range(deep):
        details = [details]
    fields = envelope().model_dump()
    fields["answer"]["details"] = {"of": details}
    with pytest.raises(RefusedError, match="nested more than 8 deep"):
        read_update(sign("update", fields, SITE), SITE.public)
    Answer.model_validate({**ANSWER.model_dump(), "details": {"of": [{"a": [[1]]}]}})


@pytest.mark.parametrize("kind", ["update", "plan", "order"])
def test_another_protocol_is_named_before_the_form_is_looked_at(kind: str) -> None:
    newer = sign(kind, {"protocol": PROTOCOL + 1, "something": "new"}, SITE)
    readers: dict[str, Any] = {
        "update": lambda: read_update(newer, SITE.public),
        "plan": lambda: accept_plan(newer, SITE),
        "order": lambda: verify_order(newer, SITE.public, plan=signed_plan(), site="north"),
    }
    with pytest.raises(RefusedError, match=f"signed this {kind} speaks protocol version {PROTOCOL + 1}"):
        readers[kind]()


def test_an_answer_that_is_not_finite_cannot_be_signed() -> None:
    update = UPDATE.model_copy(update={"loss_sum": float("nan")})
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        sign_update(envelope(answer=ANSWER.model_copy(update={"update": update})), SITE)


def accept_plan(signed: Any, key: SigningKey = COORDINATOR, **changes: Any) -> SignedPlan:
    known: dict[str, Any] = {
        "federation": "fed-1",
        "study_digest": A,
        "architectures": {C, D},
        "sealing_key": SEALING,
    }
    return verify_plan(signed, key.public, **{**known, **changes})


def test_a_plan_travels_and_is_accepted() -> None:
    text = sign_plan(signed_plan(), COORDINATOR).model_dump_json()
    assert accept_plan(read_signed(text)) == signed_plan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federation": "fed-2"}, "the plan has federation fed-2, expected fed-1"),
        ({"architecture": A}, f"an architecture that was not approved here: {A}"),
        ({"sealing_key": A}, f"the plan has sealing_key {A}, expected"),
        ({"plan": PLAN.model_copy(update={"study_digest": D})}, f"the plan has study_digest {D}, expected {A}"),
    ],
)
def test_a_plan_for_something_else_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        accept_plan(sign_plan(signed_plan(**changes), COORDINATOR))


def test_a_plan_that_another_signed_is_refused() -> None:
    with pytest.raises(RefusedError, match="this plan was signed with key"):
        accept_plan(sign_plan(signed_plan(), STRANGER))


def test_an_order_cannot_be_offered_as_a_plan() -> None:
    with pytest.raises(RefusedError, match="a signed 'order' was offered where 'plan' is expected"):
        accept_plan(sign_order(SignedOrder(federation="fed-1", order=ORDER), COORDINATOR))


def accept_order(order: Order, key: SigningKey = COORDINATOR, federation: str = "fed-1") -> Order:
    text = sign_order(SignedOrder(federation=federation, order=order), key).model_dump_json()
    return verify_order(read_signed(text), COORDINATOR.public, plan=signed_plan(), site="north")


def test_an_order_of_a_plan_is_accepted() -> None:
    assert accept_order(ORDER) == ORDER
    evaluate = ORDER.model_copy(update={"kind": "evaluate", "weights_digest": D})
    assert accept_order(evaluate) == evaluate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": "south"}, "the order has site south, expected north"),
        ({"plan": PLAN.model_copy(update={"round": 4})}, "another plan than the one it came with"),
        ({"plan": PLAN.model_copy(update={"instructions": {}})}, "another plan than the one it came with"),
        ({"weights_digest": D}, "the order has weights_digest d+, expected b+"),
    ],
)
def test_an_order_for_something_else_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        accept_order(ORDER.model_copy(update=changes))


def test_an_order_of_another_federation_or_by_another_key_is_refused() -> None:
    with pytest.raises(RefusedError, match="the order has federation fed-2"):
        accept_order(ORDER, federation="fed-2")
    with pytest.raises(RefusedError, match="this order was signed with key"):
        accept_order(ORDER, STRANGER)


def test_a_site_that_is_not_in_the_roster_does_not_train() -> None:
    plan = PLAN.model_copy(update={"roster": ["south"]})
    signed = sign_order(SignedOrder(federation="fed-1", order=ORDER.model_copy(update={"plan": plan})), COORDINATOR)
    with pytest.raises(RefusedError, match="north is ordered to train in a round whose roster"):
        verify_order(signed, COORDINATOR.public, plan=signed_plan(plan=plan), site="north")


def plan_at(number: int, attempt: int, **changes: Any) -> RoundPlan:
    return PLAN.model_copy(update={"round": number, "attempt": attempt, **changes})


@pytest.mark.parametrize("number", [(4, 1), (3, 3), (40, 7)])
def test_a_newer_plan_is_accepted(number: tuple[int, int]) -> None:
    require_newer(plan_at(*number), plan_at(3, 2))


def test_the_first_plan_and_the_last_one_again_are_accepted() -> None:
    require_newer(PLAN, None)
    require_newer(PLAN, plan_at(3, 2))


@pytest.mark.parametrize("number", [(2, 9), (3, 1), (1, 1)])
def test_an_older_plan_is_refused(number: tuple[int, int]) -> None:
    with pytest.raises(RefusedError, match=r"is older than the last one accepted here \(round 3, attempt 2\)"):
        require_newer(plan_at(*number), plan_at(3, 2))


def test_the_last_plan_with_another_content_is_refused() -> None:
    with pytest.raises(RefusedError, match="has the number, but not the content, of the last one"):
        require_newer(plan_at(3, 2, base_digest=D), plan_at(3, 2))


def test_a_training_does_not_change_its_study() -> None:
    with pytest.raises(RefusedError, match="the plan has study_digest"):
        require_newer(plan_at(4, 1, study_digest=D), plan_at(3, 2))


def test_plans_of_two_trainings_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="last must be a plan of training 'chest-2', given one of 'chest-1'"):
        require_newer(plan_at(4, 1, training="chest-2"), plan_at(3, 2))


def test_a_context_is_that_of_one_order_in_one_federation() -> None:
    contexts = {
        update_context("fed-1", ORDER),
        update_context("fed-2", ORDER),
        update_context("fed-1", ORDER.model_copy(update={"site": "south"})),
        update_context("fed-1", ORDER.model_copy(update={"nonce": "n2"})),
        update_context("fed-1", ORDER.model_copy(update={"plan": plan_at(3, 3)})),
        update_context("fed-1", ORDER.model_copy(update={"plan": plan_at(4, 2)})),
    }
    assert len(contexts) == 6
    assert update_context("fed-1", Order.model_validate_json(ORDER.model_dump_json())) in contexts
