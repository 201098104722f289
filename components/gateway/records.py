"""The gateway's own names and records, without torch: a hospital's worker imports them and must stay light."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from components import rounds
from components.exchange.questions import QuestionCall
from components.rounds import Name, Order

RawKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$", description="32 bytes in standard base64")]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Record(rounds.Record):
    """Base of the records: as those of a round, and without numbers that are not finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class SlotKey(Record):
    """Which slot: of a site, for one kind of work in one attempt at one round of a training.

    Attributes:
        kind: What the work is: to prepare (before round 1), to train, to evaluate on one split, or to answer a
            question of an analysis, whose number `round` is.
    """

    training: Name
    round: Number
    attempt: Number
    kind: Literal["prepare", "train", "validation", "test", "analyse"] = "train"
    site: Name

    @property
    def folder(self) -> Path:
        """Path below the folder of the slots."""
        return Path(self.training, str(self.round), str(self.attempt), self.kind, self.site)


def slot_of_order(order: Order) -> SlotKey:
    """Return the slot that the answer to an order goes into."""
    plan, kind = order.plan, "train" if order.kind == "train" else order.split
    return SlotKey(training=plan.training, round=plan.round, attempt=plan.attempt, kind=kind, site=order.site)


def slot_of_question(call: QuestionCall) -> SlotKey:
    """Return the slot that the reply to a question goes into."""
    return SlotKey(training=call.training, round=call.round, attempt=call.attempt, kind="analyse", site=call.site)


class WorkItem(Record):
    """One thing a site is asked for.

    Attributes:
        slot: Where the answer goes.
        request: A `components.exchange.site_request.AnyRequest`, as JSON.
    """

    slot: SlotKey
    request: str


class Work(Record):
    """What a site is asked for now.

    Attributes:
        rung: How often the site was woken so far; asked again with it, the gateway answers when there is news.
        items: In the order they were asked. What is missing from them is not wanted any more.
    """

    rung: Annotated[int, Field(ge=0)]
    items: list[WorkItem]


class Peer(Record):
    """The public keys of a member of the federation, as 32 raw bytes in standard base64."""

    site: Name
    signing_key: RawKey
    sealing_key: RawKey


class CoordinatorKeys(Record):
    """The coordinator's public keys, as those of a `Peer`."""

    signing_key: RawKey
    sealing_key: RawKey


class Federation(Record):
    """Who belongs to a federation, as its members see it.

    Attributes:
        federation: Its identifier.
        coordinator: Whom updates are sealed to, and who signs plans.
        peers: The sites that have enrolled, in the order of their names.
    """

    federation: Name
    coordinator: CoordinatorKeys
    peers: list[Peer]


class Health(Record):
    """What the gateway says of itself to everybody: its version, the protocol it speaks, its clock (s since 1970)."""

    version: str
    protocol: int
    time: float


class Authority(Record):
    """The federation's identifier and its authority's certificate (PEM), for those who hold its fingerprint."""

    federation: Name
    authority: str


class EnrolRequest(Record):
    """What a site sends once: its token, a certificate signing request (PEM), its public keys, its protocol."""

    protocol: int
    token_id: Annotated[str, Field(max_length=64)]
    secret: Annotated[str, Field(max_length=64)]
    csr: Annotated[str, Field(max_length=8192)]
    signing_key: RawKey
    sealing_key: RawKey


class Enrolment(Record):
    """What a site gets for it: its credential and the authority (PEM), and whom it is with."""

    certificate: str
    authority: str
    members: Federation


class RenewRequest(Record):
    """A certificate signing request (PEM) for the next credential."""

    protocol: int
    csr: Annotated[str, Field(max_length=8192)]


class Renewal(Record):
    """The next credential (PEM)."""

    certificate: str


class Doing(Record):
    """One thing a site does, in numbers: nothing of its data, its folders or its machine.

    Attributes:
        state: What it does.
        training: For which training.
        round: Which round of it; known once the site trains.
        epoch: The pass over its items that it is in, counted from 1, of `epochs`.
        share: How much of that pass is done.
        left_s: Seconds until it has trained, as estimated from those before.
        since: When it began (s since 1970).
    """

    state: Literal["idle", "prepare", "train", "evaluate", "analyse"]
    training: Name | None = None
    round: Number | None = None
    epoch: Number | None = None
    epochs: Number | None = None
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    left_s: Annotated[float, Field(ge=0)] | None = None
    since: Annotated[float, Field(ge=0)] | None = None


class Activity(Doing):
    """What a site does now: all that its heartbeat may say of it.

    Attributes:
        beside: What it does at the same time, on other GPUs.
        waiting: Requests that wait for one to be free.
    """

    state: Literal["idle", "prepare", "train", "evaluate", "analyse"] = "idle"
    beside: Annotated[list[Doing], Field(max_length=15)] = Field(default_factory=list)
    waiting: Annotated[int, Field(ge=0, le=9999)] = 0


class Heartbeat(Record):
    """What a site says while it is alive: the WardRound it runs, the protocol it speaks, and what it is doing."""

    version: Annotated[str, Field(max_length=63)]
    activity: Activity
    protocol: Number | None = None


class DoctorReport(Record):
    """What a site found when it examined itself: whether it may take part, and the findings."""

    passed: bool
    version: Annotated[str, Field(max_length=63)]
    findings: dict[str, Any]


class UploadStatus(Record):
    """How much of a payload is there, and whether its slot is sealed with an envelope."""

    bytes: Annotated[int, Field(ge=0)]
    submitted: bool


class Refusal(Record):
    """Why something was refused, in words that tell nothing of anybody else."""

    error: str


def own_version() -> str:
    """Return the version of WardRound that runs here."""
    try:
        return version("wardround")
    except PackageNotFoundError:
        return "unknown"
