"""What the coordinator's journal says of a training: which rounds are planned, delivered, committed.

The journal is the truth; a ledger is a reading of it. The events of a training, in their order:

``training_started``, then for each round ``round_planned``, ``update_received`` or ``update_refused`` for
each site, ``aggregated``, ``evaluated``, ``committed`` (may come during the next round), and at the end
``tested``, ``compared``, ``externally_tested`` and ``training_finished``, or ``cancelled``.
``training_resumed``, ``interrupted``,
``site_joined``, ``site_left`` and ``waiting`` (for a quorum) may stand anywhere between; ``asked_again`` (a site,
for another attempt), ``claim_lapsed`` and ``claim_renewed`` (a site that took its work up fell silent, and was heard
of again), ``late_update`` (one of an earlier round, used in this one), ``update_lost`` (one that was
received and is damaged now) and ``weights_mended`` (they were damaged, and written again) within a round.

In an asynchronous training ``round_planned`` says who is asked, the others being at work for an earlier round; an
``update_received`` of an earlier round has its plan; ``late_dropped`` ends work that is too old. The lines decide
which updates make which version, and so every bit of it. ``evaluated`` comes when the next rounds may be under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from components.dispatch import InitialModel, Preparation
from components.errors import StorageError
from components.gateway.records import own_version
from components.principal import ToldComponents
from components.rounds import Answer, RoundPlan, StateRef


class Line(Protocol):
    """What a ledger needs of a journal's entry."""

    @property
    def event(self) -> str:
        """Name of the event."""
        ...

    @property
    def data(self) -> Mapping[str, Any]:
        """What was recorded with it."""
        ...


SILENT = "took its work up and fell silent"


@dataclass
class RoundLedger:
    """What is known of one round; None where it has not happened.

    Attributes:
        asked: In an asynchronous training: who was asked when the round was planned; None in a synchronous one.
        earlier: By site, the plan of an earlier round that its update was made for.
        at_work: Sites that were at work when an asynchronous round closed, by the round they were asked in.
        silent: Sites that took their work up, and fell silent.
        judged_before: Sites that could not evaluate the round's version, by the version that their sums are of.
    """

    plan: RoundPlan
    asked: list[str] | None = None
    earlier: dict[str, RoundPlan] = field(default_factory=dict)
    at_work: dict[str, int] = field(default_factory=dict)
    judged_before: dict[str, int] = field(default_factory=dict)
    received: dict[str, Answer] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    late: dict[str, tuple[RoundPlan, Answer]] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    evaluation_durations: dict[str, float] = field(default_factory=dict)
    state: StateRef | None = None
    evaluation: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    version: int | None = None
    seconds: float = 0.0

    def apply(self, event: str, data: Mapping[str, Any]) -> None:
        """Take one event of this round into account; events of other kinds change nothing."""
        if event in ("update_received", "update_lost", "update_refused"):
            self._take(event, data)
        elif event == "asked_again":
            self.attempts[data["site"]] = data["attempt"]
        elif event == "claim_lapsed":
            self.silent.add(data["site"])
        elif event == "claim_renewed":
            self.silent.discard(data["site"])
        elif event == "late_update":
            used = RoundPlan.model_validate(data["plan"]), Answer.model_validate(data["answer"])
            self.late[used[1].site] = used
        elif event == "aggregated":
            self.state = StateRef.model_validate(data["state"])
            self.at_work = dict(data.get("at_work", {}))
        elif event == "evaluated":
            self.evaluation, self.metrics, self.seconds = data["evaluation"], dict(data["metrics"]), data["seconds"]
            self.evaluation_durations = dict(data.get("took_s", {}))
            self.judged_before = dict(data.get("judged_before", {}))
        elif event == "committed":
            self.version = data["version"]

    def _take(self, event: str, data: Mapping[str, Any]) -> None:
        """Take into account what became of a site's update."""
        if event == "update_received":
            answer = Answer.model_validate(data["answer"])
            self.received[answer.site] = answer
            self.silent.discard(answer.site)
            self.durations |= {answer.site: data["took_s"]} if "took_s" in data else {}
            self.earlier |= {answer.site: RoundPlan.model_validate(data["plan"])} if "plan" in data else {}
            return
        if event == "update_lost":
            self.received.pop(data["site"], None)
            self.earlier.pop(data["site"], None)
        self.refused[data["site"]] = data["reason"]

    def require_state(self) -> StateRef:
        """Return the state the round ended with.

        Raises:
            StorageError: If the round was not aggregated.
        """
        if self.state is None:
            raise StorageError(f"round {self.plan.round} of {self.plan.training} was not aggregated")
        return self.state

    @property
    def digests(self) -> set[str]:
        """Digests of all weights of the state the round ended with; empty before that."""
        return {self.state.weights, *self.state.slots.values()} if self.state is not None else set()

    @property
    def took_part(self) -> list[str]:
        """Sites whose update was received and used."""
        return sorted(self.received)

    @property
    def missing(self) -> dict[str, str]:
        """Sites that were asked and whose update is not there, and why."""
        reasons = {site: f"at work since round {number}" for site, number in self.at_work.items()}
        absent = [site for site in self.plan.roster if site not in self.received]
        return {site: reasons.get(site) or self.refused.get(site, "no answer") for site in absent}

    @property
    def staleness(self) -> dict[str, int]:
        """How many rounds old each update was that counts in this round; 0 if it was made for it."""
        return {site: self.plan.round - plan.round for site, plan in sorted(self.used_plans.items())}

    @property
    def lacking(self) -> str:
        """What the round still needs to count, in words; empty if it counts."""
        absent = [site for site in self.plan.required if site not in self.received]
        if len(self.received) >= self.plan.quorum and not absent:
            return ""
        named = f", and {', '.join(absent)} among them" if absent else ""
        return f"{len(self.received)} of the {self.plan.quorum} updates it needs{named}"

    def plan_for(self, site: str) -> RoundPlan:
        """Return the plan as a site was asked last: with its own attempt."""
        attempt = self.attempts.get(site, self.plan.attempt)
        return self.plan if attempt == self.plan.attempt else self.plan.model_copy(update={"attempt": attempt})

    @property
    def used_plans(self) -> dict[str, RoundPlan]:
        """By site, the plan of each update that counts in this round."""
        received = {site: self.earlier.get(site) or self.plan_for(site) for site in self.received}
        return {site: plan for site, (plan, _) in self.late.items()} | received

    @property
    def used_answers(self) -> dict[str, Answer]:
        """By site, the answer with each update that counts in this round."""
        return {site: answer for site, (_, answer) in self.late.items()} | self.received


@dataclass
class TrainingLedger:
    """What is known of one training.

    Attributes:
        in_flight: In an asynchronous training: sites that are at work, with the plan they were asked with last.
    """

    training: str
    study_digest: str
    started: dict[str, Any]
    initial: InitialModel
    preparations: dict[str, Preparation]
    rounds: dict[int, RoundLedger] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    in_flight: dict[str, RoundPlan] = field(default_factory=dict)
    tested: dict[str, Any] | None = None
    compared: dict[str, Any] | None = None
    external: dict[str, Any] | None = None
    finished: dict[str, Any] | None = None
    code_version: str = ""

    @property
    def first_preparations(self) -> dict[str, Preparation]:
        """What the sites found when the training began; those that came later are not among them."""
        return {site: Preparation.model_validate(raw) for site, raw in self.started["preparations"].items()}

    @property
    def components(self) -> ToldComponents | None:
        """What is said of the principal components that its first weights have; None where they have none."""
        found = self.started.get("components")
        return None if found is None else ToldComponents.model_validate(found)

    @property
    def members(self) -> list[str]:
        """Sites that belong to the training, ready or not, in the order of their names."""
        return sorted(self.preparations.keys() - self.left)

    def history(self, metric: str) -> dict[int, float | None]:
        """Return a metric by round, for the rounds that were evaluated."""
        return {number: item.metrics.get(metric) for number, item in self.rounds.items() if item.evaluation is not None}

    def apply(self, event: str, data: Mapping[str, Any]) -> None:
        """Take one event into account; events of other kinds change nothing."""
        if event == "round_planned":
            plan = RoundPlan.model_validate(data["plan"])
            self.rounds[plan.round] = RoundLedger(plan, asked=data.get("asked"))
        elif data.get("round") in self.rounds:
            self.rounds[data["round"]].apply(event, data)
        self._follow_flights(event, data)
        if event == "training_resumed":
            self.code_version = data.get("code_version", self.code_version)
        if event == "site_joined":
            self.preparations[data["site"]] = Preparation.model_validate(data["preparation"])
            self.left.discard(data["site"])
        elif event == "site_left":
            gone = {"ready": False, "reason": data["reason"]}
            self.preparations[data["site"]] = self.preparations[data["site"]].model_copy(update=gone)
            self.left.add(data["site"])
        elif event == "tested":
            self.tested = dict(data)
        elif event == "compared":
            self.compared = dict(data)
        elif event == "externally_tested":
            self.external = dict(data)
        elif event in ("training_finished", "cancelled"):
            self.finished = dict(data)

    def _follow_flights(self, event: str, data: Mapping[str, Any]) -> None:
        """Take into account who begins and who ends a piece of work of an asynchronous training."""
        if event in ("update_received", "update_refused", "late_dropped", "site_left"):
            self.in_flight.pop(data["site"], None)
        item = self.rounds.get(data.get("round", 0))
        if item is None or item.asked is None:
            return
        if event == "round_planned":
            self.in_flight |= dict.fromkeys(item.asked, item.plan)
        elif event == "asked_again":
            self.in_flight[data["site"]] = item.plan_for(data["site"])


def trainings(lines: Iterable[Line]) -> dict[str, TrainingLedger]:
    """Read all trainings of a journal, in the order they started.

    Raises:
        StorageError: If a line has another form than this WardRound knows, naming the one that wrote it.
    """
    found: dict[str, TrainingLedger] = {}
    for line in lines:
        try:
            if line.event == "training_started":
                found[line.data["training"]] = started(line.data)
            elif line.data.get("training") in found:
                found[line.data["training"]].apply(line.event, line.data)
        except (ValidationError, KeyError) as error:
            training = found.get(line.data.get("training", ""))
            by = (training.code_version if training else line.data.get("code_version")) or "of an unknown version"
            raise StorageError(
                f"the journal has a {line.event} of {line.data.get('training')} in a form that is not known here: "
                f"WardRound {by} wrote it, this is {own_version()}. Run that version"
            ) from error
    return found


def started(data: Mapping[str, Any]) -> TrainingLedger:
    """Return the ledger of a training that has just started."""
    return TrainingLedger(
        training=data["training"],
        study_digest=data["study_digest"],
        started=dict(data),
        initial=InitialModel.model_validate(data["initial"]),
        preparations={site: Preparation.model_validate(raw) for site, raw in data["preparations"].items()},
        code_version=data.get("code_version", ""),
    )


def resumable(found: Mapping[str, TrainingLedger]) -> list[TrainingLedger]:
    """Return what the same command would take up again: of each study, its newest training if not finished.

    An older one was given up, by starting a newer one with ``--fresh``.
    """
    newest = {item.study_digest: item for item in found.values()}
    return [item for item in newest.values() if item.finished is None]


def unfinished(found: Mapping[str, TrainingLedger], study_digest: str) -> TrainingLedger | None:
    """Return the newest training of exactly this study, if it has not finished."""
    return next((item for item in resumable(found) if item.study_digest == study_digest), None)
