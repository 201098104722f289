"""One federated round: train at the sites, collect, aggregate, evaluate, register.

The round's orders are sent by `open_round` before its Prefect run exists, so that no site waits for
bookkeeping; the flow then follows the work. What comes after the decision (registering the version,
the round's artifact) runs beside the next round.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.states import Cancelled

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
from flows.session import InterruptedTrainingError, OpenRound, Session, current_session

EVALUATE_AGAIN_S = 10.0


def open_round(session: Session, state: ServerState, number: int) -> OpenRound:
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
    decided = asyncio.get_running_loop().create_future()
    session.open_rounds[number] = OpenRound(number, state, collection, decided, time.monotonic())
    return session.open_rounds[number]


@flow(name="federated-round", flow_run_name="round {number} of {training}", persist_result=False)
async def federated_round(number: int, training: str) -> dict[str, Any] | State[Any]:
    """Follow a round to its registered version.

    Args:
        number: Number of the round, counted from 1.
        training: Identifier of the training.

    Returns:
        The version's number and its pooled metrics.

    Raises:
        QuorumError: If too few sites delivered before the deadline.
    """
    session = current_session()
    item = session.ledger.rounds[number]
    if session.hospitals is not None:
        session.hospitals.begin_round(number, get_run_context().flow_run.id)  # type: ignore[union-attr]
    try:
        with in_round(session.study.study, number):
            await _decide(session, number)
            version = await register_version(number)
    except InterruptedTrainingError as stopped:
        return Cancelled(message=str(stopped))
    await acreate_markdown_artifact(
        key=f"round-{number}-of-{training}".lower().replace("_", "-").replace(".", "-"),
        markdown=round_table(session, number),
        description=f"Round {number} of {training}: who took part, and version {version}",
    )
    del session.open_rounds[number]
    return {"round": number, "version": version, "metrics": item.metrics}


@task(name="train", task_run_name="train at {site}", cache_policy=NO_CACHE, persist_result=False)
async def follow_training(site: str, number: int) -> dict[str, Any]:
    """Wait for one site's update, check it, and write it into the journal."""
    collection = current_session().open_rounds[number].collection
    assert collection is not None  # a round whose state is there follows nobody
    answer = await collection.follow(site)
    return {"samples": answer.update.weight if answer.update else 0, **answer.seconds}


@task(name="aggregate", task_run_name="aggregate round {number}", cache_policy=NO_CACHE, persist_result=False)
async def aggregate_updates(number: int) -> dict[str, Any]:
    """Make the next state of the received updates, in the order of the sites' names."""
    session = current_session()
    opened, item = session.open_rounds[number], session.ledger.rounds[number]

    def aggregate() -> ServerState:
        updates = updates_of(item.used_plans, item.used_answers, session.store)
        return session.strategy.aggregate(opened.state, updates)

    opened.state = await asyncio.to_thread(aggregate)
    ref = await asyncio.to_thread(save_state, session.store, opened.state)
    session.record("aggregated", round=number, state=ref.model_dump(mode="json"), took_part=item.took_part)
    return {"weights": ref.weights, "took_part": item.took_part}


@task(name="evaluate", task_run_name="evaluate round {number} everywhere", cache_policy=NO_CACHE, persist_result=False)
async def evaluate_round(number: int) -> dict[str, float]:
    """Evaluate the new state at every site and write the decision's ground into the journal."""
    session = current_session()
    opened = session.open_rounds[number]
    evaluation, took_s = await evaluate_everywhere(session, number, "validation")
    seconds = time.monotonic() - opened.started
    digest = session.keep_evaluation(f"round-{number:04d}", evaluation)
    metrics = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    session.record("evaluated", round=number, evaluation=digest, metrics=metrics, seconds=seconds, took_s=took_s)
    session.watcher.round_decided(number, metrics.get(session.metric), seconds)
    return metrics


@task(name="register", task_run_name="register round {number}", cache_policy=NO_CACHE, persist_result=False)
async def register_version(number: int) -> int:
    """Register the version of a round, unless that has happened; then commit the round."""
    session = current_session()
    item = session.ledger.rounds[number]
    if item.version is None:
        version = await session.wait(session.recorder.register(session, number))
        session.record("committed", round=number, version=version)
        session.watcher.version_registered(number, version)
        await asyncio.to_thread(session.sweep)
    assert item.version is not None
    return item.version


async def _decide(session: Session, number: int) -> None:
    """Do what is missing until the round's new state is judged; then the next round may start."""
    opened, item = session.open_rounds[number], session.ledger.rounds[number]
    if item.state is None:
        await _collect(opened)
        await aggregate_updates(number)
    if item.evaluation is None:
        await evaluate_round(number)
    opened.decided.set_result(None)


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
        check_sums(found.sums, kind=asked.kind, classes=asked.classes, bins=bins)
    return found


async def _collect(opened: OpenRound) -> None:
    """Wait until the round closes; each site's part of it is a task run."""
    collection = opened.collection
    assert collection is not None  # since the round has no state yet
    runs = [_settled(follow_training(site, opened.number, return_state=True)) for site in collection.sites]
    outcomes = asyncio.gather(*runs)
    try:
        await collection.until_closed()
    finally:
        found = await outcomes
    for outcome in found:
        if isinstance(outcome, BaseException) and not isinstance(outcome, SiteError):
            raise outcome


async def _settled(run: Any) -> Any:
    """Wait for a task's run; return what it returned, or the exception it failed with."""
    state: State[Any] = await run
    return await state.aresult(raise_on_failure=False)


def round_table(session: Session, number: int) -> str:
    """Return the round as a markdown table for the Prefect UI."""
    item = session.ledger.rounds[number]
    lines = [
        f"## Round {number}: version {item.version}",
        "",
        "| site | took part | items used | items expected | training s |",
        "|---|---|---|---|---|",
    ]
    for site in item.plan.roster:
        answer = item.received.get(site)
        found = session.ledger.preparations[site].items
        used, expected = (found.usable, found.expected) if found else (0, 0)
        part = "yes" if answer else f"no: {item.refused.get(site, 'not asked')}"
        seconds = f"{answer.seconds.get('train', 0):.2f}" if answer else ""
        lines.append(f"| {site} | {part} | {used} | {expected} | {seconds} |")
    lines += ["", "| pooled validation metric | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in sorted(item.metrics.items()) if value is not None]
    link = session.recorder.version_url(session.study.study, item.version)
    lines += ["", f"{item.seconds:.1f} s. [Version {item.version} in MLflow]({link})"]
    return "\n".join(lines)
