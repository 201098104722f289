"""One federated round, driven: train at the sites, collect, aggregate, evaluate, register.

Nothing here waits for Prefect: what counts is the journal, and `flows.round` shows each step as it is done, or
later. The registration of the version goes on beside the next round; in an asynchronous training its evaluation, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.assemble import select_roster
from components.errors import SiteError
from components.federation import plan_round, save_state
from components.rounds import ServerState
from components.tracking.context import in_round
from flows.buffering import Buffer, drop_old_work
from flows.collecting import Collection
from flows.evaluating import Judgement, Question, ask_the_free, evaluate_everywhere, judge
from flows.session import Session
from flows.steps import Steps

STILL_AT_WORK = {"at_work": "its update counts in a later round"}
_AGGREGATE, _EVALUATE, _REGISTER = "aggregate round {}", "evaluate round {} everywhere", "register round {}"


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass
class DrivenRound:
    """A round from its plan to its registered version.

    Attributes:
        number: Its number, counted from 1.
        state: The state it starts from; once it is aggregated, the one it ends with.
        collection: Where its updates arrive; None if it has been aggregated before.
        steps: What is done in it.
        started: When it was opened, on the monotonic clock.
        before: The round before it, while that is driven, in an asynchronous training.
        decided: Done once the next round may start: when its new state is judged, or, asynchronously, there.
        judged: Done once its new state is judged.
        registered: Done once its version is.
    """

    number: int
    state: ServerState
    collection: Collection | Buffer | None
    steps: Steps
    started: float
    before: DrivenRound | None = None
    decided: asyncio.Future[None] = field(default_factory=_future)
    judged: asyncio.Future[None] = field(default_factory=_future)
    registered: asyncio.Future[None] = field(default_factory=_future)

    async def drive(self, session: Session) -> None:
        """Do what is missing until the version is registered.

        Raises:
            QuorumError: If too few sites delivered before the deadline.
            InterruptedTrainingError: If the operator stopped the training.
        """
        item, do = session.ledger.rounds[self.number], self.steps.do
        try:
            with in_round(session.study.study, self.number):
                if self.collection is not None:
                    await _collect(self.steps, self.collection)
                    await do(_AGGREGATE.format(self.number), _aggregate(session, self))
                if session.asynchronous:
                    await self._judge_beside(session)
                else:
                    if item.evaluation is None:
                        await do(_EVALUATE.format(self.number), _evaluate(session, self))
                    self.decided.set_result(None)
                await do(_REGISTER.format(self.number), _register(session, self.number))
        except Exception as error:
            self.steps.end(error)
            for awaited in (self.judged, self.registered):
                if not awaited.done():
                    awaited.set_exception(error)
                    awaited.exception()  # that nobody awaits it is no complaint of asyncio's
            raise
        self.registered.set_result(None)
        self.steps.end()

    async def _judge_beside(self, session: Session) -> None:
        """Let the next round start, and judge the new state beside it, after that of the round before.

        The sites that are free are asked to evaluate before they are asked to train again, and do it in this order.
        """
        item, asked = session.ledger.rounds[self.number], dict[str, Question]()
        if item.evaluation is None:
            asked = ask_the_free(session, self.number)
        self.decided.set_result(None)
        if item.evaluation is None:
            await self.steps.do(_EVALUATE.format(self.number), _judge(session, self, asked))
        self.judged.set_result(None)
        if self.before is not None:
            await session.wait(asyncio.shield(self.before.registered))
            self.before = None


def open_round(session: Session, state: ServerState, number: int, before: DrivenRound | None = None) -> DrivenRound:
    """Plan a round, or take up its plan again, and send what is still missing.

    An update that is already in its slot is not asked for again: the site may have finished while no
    coordinator was there.
    """
    new = number not in session.ledger.rounds
    if new:
        _plan(session, state, number)
    item = session.ledger.rounds[number]
    session.watcher.round_opened(number, item.plan.roster)
    collection: Collection | Buffer | None = None
    if item.state is None:
        asynchronous = session.asynchronous
        collection = Buffer(session, number, state, new=new) if asynchronous else Collection(session, number, state)
    steps = Steps([
        [collection.step(site) for site in collection.sites] if collection else [],
        [_AGGREGATE.format(number)] if collection else [],
        [_EVALUATE.format(number)] if item.evaluation is None else [],
        [_REGISTER.format(number)],
    ])  # fmt: skip
    return DrivenRound(number, state, collection, steps, time.monotonic(), before)


def _plan(session: Session, state: ServerState, number: int) -> None:
    """Plan a round, and write the plan into the journal; asynchronously, also who is asked now."""
    roster = select_roster(session.study, session.sites, number, total=len(session.ledger.members))
    base = session.digest_after(number - 1)
    plan = plan_round(
        session.study, session.strategy, state, training=session.training, roster=roster, base_digest=base
    )
    asked = {}
    if session.asynchronous:
        drop_old_work(session, number)
        asked = {"asked": [site for site in roster if site not in session.ledger.in_flight]}
    session.record("round_planned", round=number, plan=plan.model_dump(mode="json"), **asked)


async def _collect(steps: Steps, collection: Collection | Buffer) -> None:
    """Wait until the round closes; each site's part of it is a step."""
    received = [steps.do(collection.step(site), _received(collection, site)) for site in collection.sites]
    outcomes = asyncio.gather(*received, return_exceptions=True)
    try:
        await collection.until_closed()
    finally:
        found = await outcomes
    for outcome in found:
        if isinstance(outcome, BaseException) and not isinstance(outcome, SiteError):
            raise outcome


async def _received(collection: Collection | Buffer, site: str) -> dict[str, Any]:
    """Wait for one site's update to be in the journal, or for the round to close while the site goes on."""
    answer = await collection.follow(site)
    if answer is None:
        return STILL_AT_WORK
    return {"samples": answer.update.weight if answer.update else 0, **answer.seconds}


async def _aggregate(session: Session, opened: DrivenRound) -> dict[str, Any]:
    """Make the next state of the received updates, in the order of the sites' names."""
    item = session.ledger.rounds[opened.number]
    opened.state = await asyncio.to_thread(session.aggregate, opened.number, opened.state)
    ref = await asyncio.to_thread(save_state, session.store, opened.state)
    others = {}
    if session.asynchronous:
        at_work = {site: plan.round for site, plan in sorted(session.ledger.in_flight.items())}
        others = {"staleness": item.staleness, "at_work": at_work}
    session.record(
        "aggregated", round=opened.number, state=ref.model_dump(mode="json"), took_part=item.took_part, **others
    )
    session.watcher.round_closed(opened.number, sorted(item.at_work))
    return {"weights": ref.weights, "took_part": item.took_part}


async def _evaluate(session: Session, opened: DrivenRound) -> dict[str, float]:
    """Evaluate the new state at every site."""
    evaluation, took_s = await evaluate_everywhere(session, opened.number, "validation")
    return _note(session, opened, Judgement(evaluation, took_s, {}))


async def _judge(session: Session, opened: DrivenRound, asked: Mapping[str, Question]) -> dict[str, float]:
    """Evaluate the new state at the sites that are free, once the one before is judged."""
    if opened.before is not None:
        await session.wait(asyncio.shield(opened.before.judged))
    return _note(session, opened, await judge(session, opened.number, asked))


def _note(session: Session, opened: DrivenRound, found: Judgement) -> dict[str, float]:
    """Write the decision's ground into the journal."""
    number, seconds = opened.number, time.monotonic() - opened.started
    digest = session.keep_evaluation(f"round-{number:04d}", found.evaluation)
    metrics = {name: estimate.value for name, estimate in found.evaluation.metrics.items()}
    before = {"judged_before": found.before} if session.asynchronous else {}
    session.record(
        "evaluated", round=number, evaluation=digest, metrics=metrics, seconds=seconds, took_s=found.took_s, **before
    )
    session.watcher.round_decided(number, metrics.get(session.metric), seconds)
    return metrics


async def _register(session: Session, number: int) -> int:
    """Register the version of a round, unless that has happened; then commit the round."""
    item = session.ledger.rounds[number]
    if item.version is None:
        await session.wait(session.recording.wait())
        await commit(session, number, await session.wait(session.recorder.register(session, number)))
    assert item.version is not None
    return item.version


async def commit(session: Session, number: int, version: int) -> None:
    """Write that a round counts, now that its version is registered."""
    session.record("committed", round=number, version=version)
    session.watcher.version_registered(number, version)
    await asyncio.to_thread(session.sweep)
