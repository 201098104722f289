"""What the coordinator's journal says of a training: which rounds are planned, delivered, committed.

The journal is the truth; a ledger is a reading of it. The events of a training, in their order:

``training_started``, then for each round ``round_planned``, ``update_received`` or ``update_refused`` for
each site, ``aggregated``, ``evaluated``, ``committed`` (may come during the next round), and at the end
``tested``, ``compared`` and ``training_finished``. ``training_resumed`` and ``interrupted`` may stand
anywhere between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from components.dispatch import InitialModel, Preparation
from components.errors import StorageError
from components.federation import StateRef
from components.rounds import Answer, RoundPlan


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


@dataclass
class RoundLedger:
    """What is known of one round; None where it has not happened."""

    plan: RoundPlan
    received: dict[str, Answer] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    state: StateRef | None = None
    evaluation: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    version: int | None = None
    seconds: float = 0.0

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


@dataclass
class TrainingLedger:
    """What is known of one training."""

    training: str
    study_digest: str
    started: dict[str, Any]
    initial: InitialModel
    preparations: dict[str, Preparation]
    rounds: dict[int, RoundLedger] = field(default_factory=dict)
    tested: dict[str, Any] | None = None
    compared: dict[str, Any] | None = None
    finished: dict[str, Any] | None = None

    def history(self, metric: str) -> dict[int, float | None]:
        """Return a metric by round, for the rounds that were evaluated."""
        return {number: item.metrics.get(metric) for number, item in self.rounds.items() if item.evaluation is not None}

    def apply(self, event: str, data: Mapping[str, Any]) -> None:
        """Take one event into account; events of other kinds change nothing."""
        if event == "round_planned":
            plan = RoundPlan.model_validate(data["plan"])
            self.rounds[plan.round] = RoundLedger(plan)
        elif event == "update_received":
            answer = Answer.model_validate(data["answer"])
            self.rounds[answer.round].received[answer.site] = answer
        elif event == "update_refused":
            self.rounds[data["round"]].refused[data["site"]] = data["reason"]
        elif event == "aggregated":
            self.rounds[data["round"]].state = StateRef.model_validate(data["state"])
        elif event == "evaluated":
            item = self.rounds[data["round"]]
            item.evaluation, item.metrics, item.seconds = data["evaluation"], dict(data["metrics"]), data["seconds"]
        elif event == "committed":
            self.rounds[data["round"]].version = data["version"]
        elif event == "tested":
            self.tested = dict(data)
        elif event == "compared":
            self.compared = dict(data)
        elif event == "training_finished":
            self.finished = dict(data)


def trainings(lines: Iterable[Line]) -> dict[str, TrainingLedger]:
    """Read all trainings of a journal, in the order they started."""
    found: dict[str, TrainingLedger] = {}
    for line in lines:
        if line.event == "training_started":
            found[line.data["training"]] = started(line.data)
        elif line.data.get("training") in found:
            found[line.data["training"]].apply(line.event, line.data)
    return found


def started(data: Mapping[str, Any]) -> TrainingLedger:
    """Return the ledger of a training that has just started."""
    return TrainingLedger(
        training=data["training"],
        study_digest=data["study_digest"],
        started=dict(data),
        initial=InitialModel.model_validate(data["initial"]),
        preparations={site: Preparation.model_validate(raw) for site, raw in data["preparations"].items()},
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
