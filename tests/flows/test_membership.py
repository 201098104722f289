"""Who is there, as the driver of a training sees it, with a real database of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import pytest

from components.dispatch import Preparation
from components.errors import QuorumError, ServiceError
from components.exchange.protocol import PROTOCOL
from components.gateway.claims import CLAIM_S, HUNG_UP_S, Claims
from components.gateway.database import Database, sites
from components.gateway.records import own_version, slot_of_order
from components.gateway.sites import Site, Sites
from components.rounds import Order, RoundPlan
from components.study import Study
from flows import heard, roll
from flows import membership as module
from flows.coordinator import CoordinatorSide
from flows.membership import Membership
from flows.progress import Watcher
from flows.remote import RemoteDispatcher
from tests.references.tiny_study import tiny_study
from tests.references.tiny_table import table_study


class Clock:
    """Both clocks that a membership reads, in step."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Side:
    """The part of a coordinator's side that a membership asks about silence."""

    def __init__(self, known: Sites, claims: Claims) -> None:
        self.sites, self.claims = known, claims


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(heard, "time", clock)
    monkeypatch.setattr(roll, "time", clock)
    return clock


@pytest.fixture
def database(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/g.db", clock=clock.time)
    with database.write() as connection:
        connection.execute(sites.insert().values(name="north", status="ready", last_seen=clock.now))
    yield database
    database.close()


@pytest.fixture
def known(database: Database) -> Sites:
    return Sites(database)


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database)


def away(known: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[Site]:
        raise ServiceError("the database does not answer")

    monkeypatch.setattr(known, "list", fails)


@pytest.fixture
def membership(known: Sites, claims: Claims) -> Membership:
    side = cast(CoordinatorSide, Side(known, claims))
    return Membership(tiny_study(), side, cast(RemoteDispatcher, None), require_ready=True)


def test_a_site_grows_silent_while_the_database_is_there(membership: Membership, clock: Clock) -> None:
    assert membership.silent_s("north") == 0
    clock.now += 40
    assert membership.silent_s("north") == 40


def test_nobody_grows_silent_while_the_database_is_away(
    membership: Membership, known: Sites, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert membership.silent_s("north") == 0
    with monkeypatch.context() as patch:
        away(known, patch)
        clock.now += 40
        assert membership.silent_s("north") == 0
    clock.now += 2
    assert membership.silent_s("north") == 0, "it could not have been heard, and has its time anew"
    clock.now += 5
    assert membership.silent_s("north") == 5


def test_a_training_that_is_taken_up_waits_for_nobody_who_is_at_work_for_it(known: Sites, claims: Claims) -> None:
    """It answers when it has trained, and that may take hours."""

    class Asking:
        def prepare(self, site: str) -> Future[Preparation]:
            return Future()

    side, asking = cast(CoordinatorSide, Side(known, claims)), cast(RemoteDispatcher, Asking())
    membership = Membership(tiny_study(rounds={"mode": "async", "buffer": 1}), side, asking, require_ready=True)
    before = Preparation(site="north", ready=True)
    assert membership.gather(Watcher(), lambda: None, at_work={"north": before}) == {"north": before}


def test_without_a_first_look_there_is_nothing_to_go_by(
    membership: Membership, known: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    away(known, monkeypatch)
    with pytest.raises(ServiceError, match="does not answer"):
        membership.silent_s("north")


def test_a_site_that_speaks_another_protocol_is_no_member_and_both_versions_are_named(
    membership: Membership, known: Sites, clock: Clock
) -> None:
    assert membership.speaks_otherwise("north") == ""
    known.heartbeat("north", "9.1.0", {}, PROTOCOL + 1)
    with pytest.raises(QuorumError) as refused:
        membership.gather(Watcher(), lambda: None)
    assert str(refused.value) == (
        f"north: it runs WardRound 9.1.0 (protocol {PROTOCOL + 1}), this coordinator {own_version()} "
        f"(protocol {PROTOCOL}): update the coordinator"
    )
    known.heartbeat("north", own_version(), {}, PROTOCOL)
    clock.now += 2
    assert membership.speaks_otherwise("north") == ""


ORDER = Order(
    plan=RoundPlan(
        study="s", training="t", study_digest="a" * 64, round=2, roster=["north"], quorum=1,
        base_digest="b" * 64, deadline_s=60,
    ),
    site="north", nonce="c" * 32, kind="train", weights_digest="b" * 64,
)  # fmt: skip


def test_a_claim_lapses_once_its_site_is_not_heard_of(membership: Membership, claims: Claims, clock: Clock) -> None:
    assert membership.claim(ORDER) == "open"
    clock.now += 2
    claims.take("north", [slot_of_order(ORDER)])
    assert membership.claim(ORDER) == "held"
    clock.now += CLAIM_S
    assert membership.claim(ORDER) == "held"
    clock.now += 1.5
    assert membership.claim(ORDER) == "lapsed"
    claims.take("north", [slot_of_order(ORDER)])
    clock.now += 1.5
    assert membership.claim(ORDER) == "held"


def test_a_claim_of_who_hung_up_lapses_sooner(membership: Membership, claims: Claims, clock: Clock) -> None:
    claims.take("north", [slot_of_order(ORDER)])
    claims.hung_up("north")
    assert membership.claim(ORDER) == "held"
    clock.now += HUNG_UP_S + 1.5
    assert membership.claim(ORDER) == "lapsed"


def test_no_claim_lapses_while_the_database_is_away(
    membership: Membership, known: Sites, claims: Claims, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims.take("north", [slot_of_order(ORDER)])
    assert membership.claim(ORDER) == "held"
    with monkeypatch.context() as patch:
        away(known, patch)
        clock.now += 2 * CLAIM_S
        assert membership.claim(ORDER) == "held"
    clock.now += 2
    assert membership.claim(ORDER) == "held", "nobody could renew it"


class Answering:
    """Sites that answer at once, some of them that they have no data for the study."""

    def __init__(self, *without_data: str) -> None:
        self.without_data = without_data

    def prepare(self, site: str) -> Future[Preparation]:
        found: Future[Preparation] = Future()
        has_data = site not in self.without_data
        reason = "" if has_data else f"{site} has no data for the study tiny"
        found.set_result(Preparation(site=site, ready=has_data, reason=reason, has_data=has_data))
        return found


VIRTUAL = tiny_study(sites={"count": 2, "partition": "iid"})


def gathering(known: Sites, claims: Claims, asking: Answering, study: Study = VIRTUAL) -> Membership:
    side = cast(CoordinatorSide, Side(known, claims))
    return Membership(study, side, cast(RemoteDispatcher, asking), require_ready=True)


def enrol(database: Database, clock: Clock, *names: str) -> None:
    with database.write() as connection:
        for name in names:
            connection.execute(sites.insert().values(name=name, status="ready", last_seen=clock.now))


def test_a_hospital_without_data_for_a_study_that_does_not_name_it_takes_no_part_until_it_has_some(
    database: Database, known: Sites, claims: Claims, clock: Clock
) -> None:
    enrol(database, clock, "south", "west")
    asking = Answering("south")
    membership = gathering(known, claims, asking)
    assert sorted(membership.gather(Watcher(), lambda: None)) == ["north", "west"]
    assert membership.without_data == ["south"]
    assert membership.changes(["north", "west"]) == []
    asking.without_data = ()
    clock.now += module.ASK_AGAIN_S
    assert [found.site for found in membership.changes(["north", "west"])] == ["south"]
    assert membership.without_data == []


def test_a_member_that_lost_its_data_leaves(database: Database, known: Sites, claims: Claims, clock: Clock) -> None:
    enrol(database, clock, "south")
    membership = gathering(known, claims, Answering("south"))
    membership.gather(Watcher(), lambda: None)
    left = membership.changes(["north", "south"])
    assert [(found.site, found.ready, found.reason) for found in left] == [
        ("south", False, "south has no data for the study tiny")
    ]


def test_a_hospital_that_the_study_names_is_missed_where_it_has_no_data(
    database: Database, known: Sites, claims: Claims, clock: Clock
) -> None:
    enrol(database, clock, "east", "west")
    found = gathering(known, claims, Answering("west"), table_study()).gather(Watcher(), lambda: None)
    assert {site: one.ready for site, one in found.items()} == {"east": True, "north": True, "west": False}


def test_a_study_that_nobody_has_data_for_is_not_begun(known: Sites, claims: Claims) -> None:
    membership = gathering(known, claims, Answering("north"))
    with pytest.raises(QuorumError, match=r"no hospital has data for the study \w+ \(asked: north\): name them in"):
        membership.gather(Watcher(), lambda: None)
