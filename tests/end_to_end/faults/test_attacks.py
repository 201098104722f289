"""A hospital's own credential and keys in the hands of somebody who does not do what the product does.

He acts for the hospital in the second round. What he brings is refused, named in the journal and used nowhere; the
hospital is asked again, is itself again, and the training has the bits of the undisturbed one.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.errors import RefusedError
from components.exchange.keys import SigningKey
from components.exchange.signing import Signed
from components.gateway.records import slot_of_order
from tests.end_to_end.faults import hostile as craft
from tests.end_to_end.faults.attacks import UPDATES
from tests.end_to_end.faults.hostile import taken_over
from tests.end_to_end.faults.nothing_lost import left_behind
from tests.end_to_end.faults.trained import Trained

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]
SITE = "site-3"


@pytest.mark.parametrize("attack", UPDATES, ids=lambda attack: attack.name)
def test_what_a_hospital_may_not_bring_is_refused_named_and_used_nowhere(
    trained: Trained, attack: craft.Update, tmp_path: Path
) -> None:
    with trained.disturbed() as row:
        with taken_over(row, SITE, tmp_path) as (hostile, order):
            row.strike()
            hostile.deliver(order, attack.craft(hostile, order))
            (refused,) = row.notice(lambda: row.events("update_refused", round=2, site=SITE))
            assert re.search(attack.refused, refused.data["reason"]), refused.data["reason"]
            row.ward.until(lambda: row.events("asked_again", round=2, site=SITE, attempt=2))
            assert not [path for path in left_behind(row.ward) if "/2/1/train/" in path]
        row.go_on()
        row.end()
    assert [e.data["site"] for e in row.events("update_refused")] == [SITE]


def test_what_the_gateway_refuses_changes_nothing(trained: Trained, tmp_path: Path) -> None:
    """One after another in one round: none closes the slot, or leaves a byte in it; then the honest answer comes."""
    with trained.disturbed() as row:
        with taken_over(row, SITE, tmp_path) as (hostile, order):
            slot, honest = slot_of_order(order), hostile.honest(order)
            sealed = row.ward.home / "federation" / "exchange" / "sealed" / slot.folder
            before = len(row.ward.events("update_refused"))
            envelopes = [
                ("another key", re.compile("signed with key"), forged(hostile, order, honest)),
                ("another round", re.compile("another slot"), elsewhere(hostile, order, honest, round=1)),
                ("another site", re.compile("another slot"), elsewhere(hostile, order, honest, site="site-1")),
                ("another body", re.compile("cannot be used|signature"), changed(hostile, order, honest)),
            ]
            for name, reason, text in envelopes:
                with pytest.raises(RefusedError, match=reason):
                    hostile.client.deliver(slot, None, text)
                assert not (sealed / "envelope.json").exists(), name
            theirs = slot.model_copy(update={"site": "site-1"})
            with pytest.raises(RefusedError, match="nothing there for this site"):
                hostile.client.upload(theirs, honest.file)
            big = tmp_path / "big"
            with big.open("wb") as file:
                file.truncate(8 << 20)
            with pytest.raises(RefusedError, match="too large"):
                hostile.client.upload(slot, big)
            assert not sealed.exists() or not any(path.stat().st_size for path in sealed.iterdir())
            assert len(row.ward.events("update_refused")) == before
        row.end()
    assert row.events("update_refused") == []


def test_what_was_delivered_cannot_be_delivered_again_or_changed(trained: Trained, tmp_path: Path) -> None:
    with trained.disturbed() as row:
        with taken_over(row, SITE, tmp_path) as (hostile, order):
            envelope = hostile.deliver(order, hostile.honest(order))
            row.ward.until(lambda: row.events("update_received", round=2, site=SITE))
            for text in (envelope, hostile.envelope(order, answer_of(hostile, order), None)):
                with pytest.raises(RefusedError):
                    hostile.client.deliver(slot_of_order(order), None, text)
        said, _ = row.train.communicate(timeout=400)
        assert row.train.returncode == 0, said
    received = row.events("update_received", round=2, site=SITE)
    assert len(received) == 1
    assert row.events("aggregated", round=2)[0].data["took_part"] == ["site-1", "site-2", "site-3"]


def test_an_evaluation_of_a_thousand_million_items_is_refused(trained: Trained, tmp_path: Path) -> None:
    """Of round 1's weights, all of them right: it would decide alone which model is best."""
    with trained.disturbed() as row:
        with taken_over(row, SITE, tmp_path, craft.Hostile.boast):
            (refused,) = row.events("evaluation_refused", round=1, site=SITE)
            assert re.search(r"an evaluation of 1000000000 items, the site can have \d+", refused.data["reason"])
        row.end()


def answer_of(hostile: craft.Hostile, order: craft.Order) -> craft.Answer:
    return craft.Answer(kind="train", site=order.site, round=2, nonce=order.nonce, status="failed")


def forged(hostile: craft.Hostile, order: craft.Order, honest: craft.Crafted) -> bytes:
    """An envelope for the slot, signed with a key that is not the hospital's."""
    own, hostile.keys = hostile.keys, craft.replace(hostile.keys, signing=SigningKey.generate())
    try:
        return hostile.envelope(order, answer_of(hostile, order), None)
    finally:
        hostile.keys = own


def elsewhere(hostile: craft.Hostile, order: craft.Order, honest: craft.Crafted, **changes: object) -> bytes:
    """An envelope that was signed for another slot."""
    site = changes.pop("site", order.site)
    other = order.model_copy(update={"site": site, "plan": order.plan.model_copy(update=changes)})
    answer = answer_of(hostile, other).model_copy(update={"round": other.plan.round})
    return hostile.envelope(other, answer, None)


def changed(hostile: craft.Hostile, order: craft.Order, honest: craft.Crafted) -> bytes:
    """An envelope that was changed after it was signed."""
    signed = Signed.model_validate_json(hostile.envelope(order, answer_of(hostile, order), None))
    body = signed.body.replace('"failed"', '"refused"')
    assert body != signed.body
    return signed.model_copy(update={"body": body}).model_dump_json().encode()
