"""One federated round, driven: train at the sites, collect, aggregate, evaluate, register.

Nothing here waits for Prefect: what counts is the journal, and `flows.round` shows each step as it is done, or
later. The registration of the version goes on beside the next round.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from components.assemble import select_roster
from components.checks import verify_answer
from components.errors import QuorumError, SiteError, WardRoundError
from components.evaluation.histograms import check_sums
from components.federation import (
    Evaluation,
    evaluation_order,
    plan_round,
    pool,
    save_state,
    updates_of,
)
from components.rounds import Answer, ServerState, Split
from components.tracking.context import in_round
from flows.collecting import LOOK_EVERY_S, Collection
from flows.readiness import reasons_text
from flows.session import InterruptedTrainingError, Session
from flows.steps import Steps

EVALUATE_AGAIN_S = 10.0
_TRAIN, _AGGREGATE, _EVALUATE, _REGISTER = (
    "train at {}",
    "aggregate round {}",
    "evaluate round {} everywhere",
    "register round {}",
)


@dataclass
class DrivenRound:
    """A round from its plan to its registered version.

    Attributes:
        number: Its number, counted from 1.
        state: The state it starts from; once it is aggregated, the one it ends with.
        collection: Where its updates arrive; None if it has been aggregated before.
        steps: What is done in it.
        decided: Done once its new state is judged; then the next round may start.
        started: When it was opened, on the monotonic clock.
    """

    number: int
    state: ServerState
    collection: Collection | None
    steps: Steps
    decided: asyncio.Future[None]
    started: float

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
                if item.evaluation is None:
                    await do(_EVALUATE.format(self.number), _evaluate(session, self))
                self.decided.set_result(None)
                await do(_REGISTER.format(self.number), _register(session, self.number))
        except Exception as error:
            self.steps.end(error)
            raise
        self.steps.end()


def open_round(session: Session, state: ServerState, number: int) -> DrivenRound:
    """Plan a round, or take up its plan again, and send what is still missing.

    An update that is already in its slot is not asked for again: the site may have finished while no
    coordinator was there.
    """
    item = session.ledger.rounds.get(number)
    if item is None:
        base = session.digest_after(number - 1)
        known = len(session.ledger.members)
        roster = select_roster(session.study, session.sites, number, total=known)
        plan = plan_round(
            session.study, session.strategy, state, training=session.training, roster=roster, base_digest=base
        )
        session.record("round_planned", round=number, plan=plan.model_dump(mode="json"))
        item = session.ledger.rounds[number]
    session.watcher.round_opened(number, item.plan.roster)
    collection = Collection(session, number, state) if item.state is None else None
    steps = Steps([
        [_TRAIN.format(site) for site in collection.sites] if collection else [],
        [_AGGREGATE.format(number)] if collection else [],
        [_EVALUATE.format(number)] if item.evaluation is None else [],
        [_REGISTER.format(number)],
    ])  # fmt: skip
    decided = asyncio.get_running_loop().create_future()
    return DrivenRound(number, state, collection, steps, decided, time.monotonic())


async def evaluate_everywhere(session: Session, number: int, split: Split) -> tuple[Evaluation, dict[str, float]]:
    """Evaluate a round's weights at every ready site and pool the sums.

    Returns:
        The evaluation, and how many seconds each site took.

    Raises:
        QuorumError: If no site could evaluate, and nobody comes back who could.
    """
    waited = False
    while True:
        answers, took_s, reasons = await _evaluate_once(session, number, split)
        if answers:
            if waited:
                session.hospitals_said(number, "")
            return await asyncio.to_thread(pool, session.study, answers), took_s
        if session.hospitals is None:
            raise QuorumError(f"no site could evaluate round {number}. {reasons_text(reasons)}")
        waited = True
        session.hospitals_said(number, f"waiting for a site that can evaluate: {reasons_text(reasons)}")
        await session.wait_any(timeout_s=EVALUATE_AGAIN_S)


async def _collect(steps: Steps, collection: Collection) -> None:
    """Wait until the round closes; each site's part of it is a step."""
    received = [steps.do(_TRAIN.format(site), _received(collection, site)) for site in collection.sites]
    outcomes = asyncio.gather(*received, return_exceptions=True)
    try:
        await collection.until_closed()
    finally:
        found = await outcomes
    for outcome in found:
        if isinstance(outcome, BaseException) and not isinstance(outcome, SiteError):
            raise outcome


async def _received(collection: Collection, site: str) -> dict[str, Any]:
    """Wait for one site's update, check it, and write it into the journal."""
    answer = await collection.follow(site)
    return {"samples": answer.update.weight if answer.update else 0, **answer.seconds}


async def _aggregate(session: Session, opened: DrivenRound) -> dict[str, Any]:
    """Make the next state of the received updates, in the order of the sites' names."""
    item = session.ledger.rounds[opened.number]

    def aggregate() -> ServerState:
        statistics = opened.state.statistics
        updates = updates_of(
            item.used_plans, item.used_answers, session.store, current=item.plan, statistics=statistics
        )
        return session.strategy.aggregate(opened.state, updates)

    opened.state = await asyncio.to_thread(aggregate)
    ref = await asyncio.to_thread(save_state, session.store, opened.state)
    session.record("aggregated", round=opened.number, state=ref.model_dump(mode="json"), took_part=item.took_part)
    return {"weights": ref.weights, "took_part": item.took_part}


async def _evaluate(session: Session, opened: DrivenRound) -> dict[str, float]:
    """Evaluate the new state at every site and write the decision's ground into the journal."""
    number = opened.number
    evaluation, took_s = await evaluate_everywhere(session, number, "validation")
    seconds = time.monotonic() - opened.started
    digest = session.keep_evaluation(f"round-{number:04d}", evaluation)
    metrics = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    session.record("evaluated", round=number, evaluation=digest, metrics=metrics, seconds=seconds, took_s=took_s)
    session.watcher.round_decided(number, metrics.get(session.metric), seconds)
    return metrics


async def _register(session: Session, number: int) -> int:
    """Register the version of a round, unless that has happened; then commit the round."""
    item = session.ledger.rounds[number]
    if item.version is None:
        await session.wait(session.recording.wait())
        version = await session.wait(session.recorder.register(session, number))
        session.record("committed", round=number, version=version)
        session.watcher.version_registered(number, version)
        await asyncio.to_thread(session.sweep)
    assert item.version is not None
    return item.version


async def _evaluate_once(
    session: Session, number: int, split: Split
) -> tuple[dict[str, Answer], dict[str, float], dict[str, str]]:
    """Ask every ready site; return the answers, how long they took, and why others have none."""
    answers: dict[str, Answer] = {}
    took_s: dict[str, float] = {}
    reasons: dict[str, str] = {}

    async def ask(site: str) -> None:
        asked = time.monotonic()
        answers[site] = await _evaluate_at(session, number, site, split)
        took_s[site] = time.monotonic() - asked

    sites = session.sites
    for site, outcome in zip(sites, await asyncio.gather(*map(ask, sites), return_exceptions=True), strict=True):
        if isinstance(outcome, WardRoundError) and not isinstance(outcome, InterruptedTrainingError):
            answers.pop(site, None)
            reasons[site] = str(outcome)
            session.record("evaluation_refused", round=number, site=site, split=split, reason=str(outcome))
        elif outcome is not None:
            raise outcome
    return answers, took_s, reasons


async def _evaluate_at(session: Session, number: int, site: str, split: Split) -> Answer:
    """Let one site evaluate the weights a round ended with, and check what it says."""
    item = session.ledger.rounds[number]
    order = evaluation_order(item.plan, site, item.require_state().weights, split)
    answer = asyncio.wrap_future(session.dispatcher.submit(order))
    due = time.monotonic() + session.evaluation_deadline_s(site, item.plan.deadline_s)
    while not answer.done():
        left_s = due - time.monotonic()
        if left_s <= 0 or session.away(site):
            if session.hospitals is not None:
                session.hospitals.withdraw(order)
            answer.cancel()
            reason = session.away(site) or "no answer in time"
            raise SiteError(reason, site=site, round_number=number, stage="evaluate")
        await session.wait_any(answer, timeout_s=min(left_s, LOOK_EVERY_S))
    found = answer.result()
    verify_answer(found, order)
    asked, bins = session.study.task, session.study.evaluate.bins
    if found.sums is not None:
        items = session.ledger.preparations[site].items
        most = items.usable if items else None
        check_sums(found.sums, kind=asked.kind, classes=asked.classes, bins=bins, most_items=most)
    return found
