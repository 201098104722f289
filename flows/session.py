"""What a training holds open while its flows run: journal, exchange, dispatcher, recorder, watcher.

Flows take JSON; what cannot be JSON lives here and is found through `current_session`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from uuid import UUID

from components.convergence import Progress, assess
from components.deadlines import learned_deadline
from components.dispatch import Dispatcher, Preparation
from components.errors import RefusedError, StorageError, WardRoundError
from components.federation import (
    Evaluation,
    first_state,
    load_state,
    pool_sums,
    save_state,
    training_order,
    updates_of,
)
from components.journal import Journal
from components.ledger import SILENT, TrainingLedger, resumable
from components.long_sums import put_aside
from components.rounds import Answer, Order, RoundPlan, ServerState
from components.study import Study, watched
from components.sums_file import read_sums, write_sums
from flows.cancellation import cancellation
from flows.progress import Watcher

if TYPE_CHECKING:
    from components.exchange.store import FolderStore
    from components.gateway.claims import ClaimState
    from components.strategies import Strategy
    from flows.buffering import Flight
    from flows.collecting import LateAnswer
    from flows.evaluating import Question
    from flows.recorder import Recorder
    from flows.tenure import Tenure

T = TypeVar("T")
AWAY_S = 30.0  # not heard of for so long: away; a hospital says every few seconds that it is there


class InterruptedTrainingError(WardRoundError):
    """The operator stopped the training; the same command resumes it."""

    exit_code = 130


class Hospitals(Protocol):
    """What a coordinator knows of sites that live on their own: who is there, who comes and who goes."""

    def begin_round(self, number: int, run: UUID) -> None:
        """Take note under which flow run a round is shown."""
        ...

    def say(self, number: int, text: str) -> None:
        """Show what a round waits for; nothing any more if the text is empty."""
        ...

    def silent_s(self, site: str) -> float:
        """Return for how many seconds a site was not heard of."""
        ...

    def speaks_otherwise(self, site: str) -> str:
        """Return, in words, that a site is of another version that this coordinator does not understand; or nothing."""
        ...

    def claim(self, order: Order) -> ClaimState:
        """Return whether a site has taken an order up, and is still there."""
        ...

    def estimate_s(self, site: str) -> float | None:
        """Return what a site's doctor expects a round of this study to take, in seconds."""
        ...

    def withdraw(self, order: Order) -> None:
        """Have a site stop what it was ordered, and take no answer any more."""
        ...

    def changes(self, known: Sequence[str]) -> list[Preparation]:
        """Return which of the known sites are no members now, not ready, and which others are ready."""
        ...


@dataclass
class Session:
    """One training and everything it holds open."""

    study: Study
    strategy: Strategy
    ledger: TrainingLedger
    folder: Path
    store: FolderStore
    journal: Journal
    dispatcher: Dispatcher
    recorder: Recorder
    watcher: Watcher
    hospitals: Hospitals | None = None  # None in a simulation, whose sites neither come nor go
    tenure: Tenure | None = None  # None in a simulation, whose journal no other machine has
    others: Mapping[str, TrainingLedger] = field(default_factory=dict)
    late: dict[str, LateAnswer] = field(default_factory=dict)
    flights: dict[str, Flight] = field(default_factory=dict)  # of an asynchronous training: who is at work
    judges: set[str] = field(default_factory=set)  # likewise: who was asked to evaluate since this process began
    looks: dict[str, Question] = field(default_factory=dict)  # likewise: newcomers, asked about their first weights
    waits: dict[int, str] = field(default_factory=dict)  # what each round was last said to wait for
    recording: asyncio.Event = field(default_factory=asyncio.Event)  # set once the recorder was started
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def training(self) -> str:
        """Identifier of the training."""
        return self.ledger.training

    @property
    def asynchronous(self) -> bool:
        """Whether its rounds close with whoever comes first, while the others go on."""
        return self.study.rounds.mode == "async"

    @property
    def sites(self) -> list[str]:
        """Sites that are ready, in the order of their names."""
        return sorted(site for site, found in self.ledger.preparations.items() if found.ready)

    @property
    def left_out(self) -> list[str]:
        """Entries that never leave the sites."""
        return self.ledger.initial.personal(self.strategy.personal)

    @property
    def metric(self) -> str:
        """The pooled validation metric that is watched."""
        return watched(self.study)

    @property
    def mode(self) -> Literal["max", "min"]:
        """Which direction of that metric is better."""
        return self.study.rounds.convergence.mode if self.study.rounds.convergence else "max"

    def record(self, event: str, **data: Any) -> None:
        """Append to the journal; the ledger follows. What this returns from has happened.

        Raises:
            LeaseLostError: If another process drives the study now; then nothing is written.
        """
        self.require_lead()
        self.journal.append(event, training=self.training, **data)
        self.ledger.apply(event, data)

    def require_lead(self) -> None:
        """Return if this process may write what counts.

        Raises:
            LeaseLostError: If another process drives the study now.
        """
        if self.tenure is not None:
            self.tenure.require()

    def keep_evaluation(self, name: str, evaluation: Evaluation) -> str:
        """Write an evaluation beside the journal; return the SHA-256 of the file."""
        return write_sums(self.folder / f"{name}.json", {"global": evaluation.by_site})

    def evaluation(self, number: int) -> Evaluation:
        """Return the validation of a round.

        Raises:
            StorageError: If the file beside the journal is not what the journal says it was.
        """
        path = self.folder / f"round-{number:04d}.json"
        return pool_sums(self.study, read_sums(path, self.ledger.rounds[number].evaluation)["global"])

    def sweep(self) -> None:
        """Drop from the exchange what neither the best and the newest rounds nor open ones need.

        Other trainings that may be resumed (of other versions of this study) keep theirs.
        """
        best, newest = self.progress().best_round, max(self.ledger.rounds, default=0)
        keep = {late.plan.base_digest for late in self.late.values()}
        open_rounds = [(self.training, late.plan.round) for late in self.late.values()]
        for training in resumable({**self.others, self.training: self.ledger}):
            keep.add(training.initial.weights_digest)
            for plan in list(training.in_flight.values()):
                keep.add(plan.base_digest)
                open_rounds.append((training.training, plan.round))
            for number, item in list(training.rounds.items()):
                if item.version is None:
                    open_rounds.append((training.training, number))
                    earlier = [*item.earlier.values(), *(plan for plan, _ in list(item.late.values()))]
                    open_rounds += [(training.training, plan.round) for plan in earlier]
                    keep |= {plan.base_digest for plan in earlier}
                if training is not self.ledger or item.version is None or number in (best, newest, newest - 1):
                    keep |= item.digests
        # The next round's state may be written but not yet recorded: what is a minute old is left alone.
        self.store.sweep(keep, open_rounds=open_rounds, min_age_s=60)

    def progress(self) -> Progress:
        """Judge the rounds evaluated so far."""
        return assess(self.ledger.history(self.metric), self.study.rounds.convergence)

    def progress_until(self, number: int) -> Progress:
        """Judge the rounds up to a number, as it was when that round was decided."""
        history = {key: value for key, value in self.ledger.history(self.metric).items() if key <= number}
        return assess(history, self.study.rounds.convergence)

    def digest_after(self, number: int) -> str:
        """Return the digest of the weights after a round; 0 is before the first."""
        return self.ledger.rounds[number].require_state().weights if number else self.ledger.initial.weights_digest

    def state_after(self, number: int) -> ServerState:
        """Return the state after a round; 0 is before the first.

        Weights that are damaged are made again of the round's updates, which stay until the round is committed.

        Raises:
            StorageError: If they are damaged or not there, and cannot be made again.
        """
        if not number:
            return first_state(self.strategy, self.ledger.initial, self.store)
        item = self.ledger.rounds[number]
        try:
            return load_state(self.store, item.require_state())
        except StorageError:
            if item.version is not None or not self._aggregate_again(number):
                raise
            return load_state(self.store, item.require_state())

    def aggregate(self, number: int, before: ServerState) -> ServerState:
        """Return the state that a round's updates make of the state before, in the order of the sites' names."""
        item = self.ledger.rounds[number]
        updates = updates_of(
            item.used_plans, item.used_answers, self.store, current=item.plan, statistics=before.statistics
        )
        return self.strategy.aggregate(before, updates)

    def _aggregate_again(self, number: int) -> bool:
        """Write the state after a round anew, and return whether it is the one that was; the same updates give it."""
        item = self.ledger.rounds[number]
        try:
            state = self.aggregate(number, self.state_after(number - 1))
        except (RefusedError, StorageError):
            return False
        mended = save_state(self.store, state) == item.state
        if mended:
            self.record("weights_mended", round=number, weights=item.require_state().weights)
        return mended

    def submit(self, order: Order) -> Future[Answer]:
        """Send an order to its site, unless the operator has stopped the training.

        Raises:
            InterruptedTrainingError: If it was stopped; a comparison that runs in threads ends by it.
        """
        if self.stop.is_set():
            raise self._interrupted()
        return self.dispatcher.submit(order)

    async def wait(self, work: Future[T] | Awaitable[T], timeout_s: float | None = None) -> T:
        """Wait for work, no longer than `timeout_s`, and not beyond the operator's stop.

        Raises:
            InterruptedTrainingError: If the operator stopped the training.
            TimeoutError: If the time is up.
        """
        waited: asyncio.Future[T] = (
            asyncio.wrap_future(work) if isinstance(work, Future) else asyncio.ensure_future(work)
        )
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            both: set[asyncio.Future[Any]] = {waited, stopped}
            await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if waited.done():
                return waited.result()
            if stopped.done():
                raise self._interrupted()
            raise TimeoutError
        finally:
            stopped.cancel()
            if not waited.done():
                waited.cancel()

    async def wait_any(self, *work: Awaitable[Any], timeout_s: float | None = None) -> None:
        """Wait until any of several is done or the time is up; what is no task of its own goes on afterwards.

        Raises:
            InterruptedTrainingError: If the operator stopped the training.
        """
        own = [asyncio.ensure_future(one) for one in (*work, self.stop.wait())]
        try:
            await asyncio.wait(own, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for given, waited in zip((*work, None), own, strict=True):
                if given is not waited:
                    waited.cancel()
        if self.stop.is_set():
            raise self._interrupted()

    def speaks_otherwise(self, site: str) -> str:
        """Return that a site is of another version, which is not understood here, in words; empty if it is not."""
        return self.hospitals.speaks_otherwise(site) if self.hospitals is not None else ""

    def away(self, site: str) -> str:
        """Return that a site is not there, in words; empty if it is."""
        if other := self.speaks_otherwise(site):
            return other
        silent_s = self.hospitals.silent_s(site) if self.hospitals is not None else 0.0
        if silent_s < AWAY_S:
            return ""
        return f"not heard of for {about_time(silent_s)}"

    def at_work(self, plan: RoundPlan, site: str) -> str:
        """Return, in words, what is known of a site whose update for a plan is not there."""
        if self.hospitals is None:
            return "at work"
        claim = self.hospitals.claim(training_order(plan, site))
        return self.away(site) or {"open": "has not taken it up", "held": "at work", "lapsed": SILENT}[claim]

    def watch_claims(self, number: int, plans: Mapping[str, RoundPlan]) -> None:
        """Record whoever took up work of a round and fell silent, and when it was heard of again.

        Args:
            number: The round.
            plans: By site that has not delivered, what it was asked.
        """
        if self.hospitals is None:
            return
        silent = self.ledger.rounds[number].silent
        for site, plan in sorted(plans.items()):
            state = self.hospitals.claim(training_order(plan, site))
            if state == "lapsed" and site not in silent:
                self.record("claim_lapsed", round=number, site=site, attempt=plan.attempt, reason=SILENT)
            elif state == "held" and site in silent:
                self.record("claim_renewed", round=number, site=site, attempt=plan.attempt)

    def deadline_s(self, site: str, cap_s: float) -> float:
        """Return how long a round waits for a site: learned from its rounds, or what its doctor expects."""
        rounds = [item for _, item in sorted(self.ledger.rounds.items())]
        durations = [item.durations[site] for item in rounds if site in item.durations]
        estimate_s = self.hospitals.estimate_s(site) if self.hospitals is not None and not durations else None
        return learned_deadline(durations, cap_s=cap_s, estimate_s=estimate_s)

    def evaluation_deadline_s(self, site: str, cap_s: float) -> float:
        """Return how long an evaluation waits for a site; in a simulation as long as may be."""
        if self.hospitals is None:
            return cap_s
        rounds = [item for _, item in sorted(self.ledger.rounds.items())]
        durations = [item.evaluation_durations[site] for item in rounds if site in item.evaluation_durations]
        return learned_deadline(durations, cap_s=cap_s)

    def follow_membership(self) -> None:
        """Take in the sites that came, and let go those that went."""
        for found in self.hospitals.changes(self.sites) if self.hospitals is not None else []:
            if found.ready:
                kept = put_aside(self.folder, found)
                self.record("site_joined", site=found.site, preparation=kept.model_dump(mode="json"))
                self.recorder.add_site(self, found)
            else:
                self.record("site_left", site=found.site, reason=found.reason)

    def waits_for(self, number: int, text: str) -> None:
        """Record and show what a round waits for, wherever somebody may look; empty: for nothing any more.

        What was said last is not said again.
        """
        if text == self.waits.get(number, ""):
            return
        self.waits[number] = text
        if text:
            self.record("waiting", round=number, reason=text)
        self.watcher.waiting(text)
        if self.hospitals is not None:
            self.hospitals.say(number, text)

    def _interrupted(self) -> InterruptedTrainingError:
        why = cancellation(self.folder)
        if why is not None:
            return InterruptedTrainingError(f"training {self.training} was cancelled: {why}")
        return InterruptedTrainingError(f"training {self.training} was stopped; the same command resumes it")


def about_time(seconds: float) -> str:
    """Return a time in a unit that does not change all the time.

    >>> about_time(35), about_time(95), about_time(7500)
    ('less than a minute', '1 min', '2 h')
    """
    if seconds < 60:
        return "less than a minute"
    return f"{seconds // 60:.0f} min" if seconds < 3600 else f"{seconds // 3600:.0f} h"
