"""The network between one hospital and the gateway is cut, stalls, is slow, fails now and then, or says things twice.

The others keep theirs. Every round needs all three, so the training has the bits of the undisturbed one.
"""

from __future__ import annotations

from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

from tests.end_to_end.faults.trained import Disturbed, Trained
from tests.end_to_end.faults.wires import Asked, Fate, linked, relayed

pytestmark = [pytest.mark.timeout(900)]
SITE = "site-2"
BYTES_PER_S = 16_000.0


def said_to_be_away(row: Disturbed) -> list[Any]:
    """Where the coordinator says that it waits for the hospital, which it has not heard of."""
    return [e for e in row.events("waiting") if f"missing: {SITE}: not heard of" in e.data["reason"]]


@pytest.mark.parametrize(
    ("how", "stage"),
    [
        pytest.param("cut", "asked", marks=pytest.mark.long),
        pytest.param("cut", "aggregated", marks=pytest.mark.long),
        pytest.param("stalled", "asked", marks=pytest.mark.long),
    ],
)
def test_a_hospital_whose_network_fails_is_waited_for(trained: Trained, how: str, stage: str) -> None:
    """Until the coordinator has said so: half a minute at the least."""
    with linked(trained, SITE) as link, trained.disturbed() as row:
        row.reach(stage)
        row.strike()
        link.cut() if how == "cut" else link.stall()
        row.notice(lambda: said_to_be_away(row))
        row.again()
        link.heal()
        row.go_on()
        row.end()
    row.record(f"a hospital's network {how} until the coordinator says so", stage)


@pytest.mark.long
def test_a_slow_link_takes_longer_and_nothing_else(trained: Trained) -> None:
    with ExitStack() as stack:
        link = stack.enter_context(linked(trained, SITE, bytes_per_s=BYTES_PER_S))
        row = stack.enter_context(trained.disturbed())
        row.reach("asked")
        row.strike()
        row.notice(lambda: row.events("update_received", round=2, site=SITE))
        row.go_on()
        row.end()
    assert link.passed > BYTES_PER_S
    row.record(f"a hospital's link with {BYTES_PER_S / 1000:.0f} kB/s", "the whole training")


@pytest.mark.long
def test_one_request_in_ten_that_fails_costs_nothing(trained: Trained) -> None:
    random = Random(1)

    def fails_sometimes(asked: Asked) -> Fate:
        return "502" if random.random() < 0.1 else "pass"

    with relayed(trained, SITE, fails_sometimes) as relay, trained.disturbed() as row:
        row.reach("asked")
        row.strike()
        row.notice(lambda: row.events("update_received", round=2, site=SITE))
        row.go_on()
        row.end()
    assert 0.02 < sum(fate == "502" for _, fate in relay.fates) / len(relay.fates) < 0.3
    row.record("one request in ten of a hospital answered 502", "the whole training")


@pytest.mark.parametrize(
    ("fate", "name"),
    [
        pytest.param("half", "a hospital's delivery cut in the middle, each at its first try", id="half"),
        pytest.param(
            "unanswered", "the answers to a hospital's deliveries lost", id="unanswered", marks=pytest.mark.long
        ),
        pytest.param("twice", "a hospital's deliveries sent twice by its proxy", id="twice", marks=pytest.mark.long),
    ],
)
def test_a_delivery_that_is_cut_or_comes_twice_counts_once(trained: Trained, fate: Fate, name: str) -> None:
    seen: set[str] = set()

    def first_try(asked: Asked) -> Fate:
        if not asked.line.startswith(("PUT /v1/slots", "POST /v1/slots")) or asked.line in seen:
            return "pass"
        seen.add(asked.line)
        return fate

    with relayed(trained, SITE, first_try) as relay, trained.disturbed() as row:
        row.reach("asked")
        row.strike()
        ours = f"/v1/slots/{row.training}/2/1/train/{SITE}/"
        row.notice(lambda: [one for line, one in relay.fates if one == fate and ours in line])
        row.go_on()
        row.end()
    assert {line.rpartition("/")[2].partition("?")[0] for line in seen} == {"upload", "submit"}
    # A signed request is good once: the second is refused, whatever it brings.
    assert set(relay.second_answers) == ({401} if fate == "twice" else set())
    row.record(name, "an update is delivered")
