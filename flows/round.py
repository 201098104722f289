"""One federated round: train at the sites, collect, aggregate, evaluate, register.

The round's orders are sent by `open_round` before its Prefect run exists, so that no site waits for
bookkeeping; the flow then follows the work. What comes after the decision (registering the version,
the round's artifact) runs beside the next round.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
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
    receive,
    save_state,
    slot_of,
    training_order,
    updates_of,
)
from components.ledger import RoundLedger
from components.rounds import Answer, RoundPlan, ServerState, Split
from components.tracking.context import in_round
from flows.readiness import reasons_text
from flows.session import InterruptedTrainingError, OpenRound, Session, current_session


def open_round(session: Session, state: ServerState, number: int) -> OpenRound:
    """Plan a round, or take up its plan again, and send what is still missing.

    An update that is already in its slot is not asked for again: the site may have finished while no
    coordinator was there.
    """
    item = session.ledger.rounds.get(number)
    if item is None:
        base = session.digest_after(number - 1)
        known = len(session.ledger.preparations)
        roster = select_roster(session.study, session.sites, number, total=known)
        plan = plan_round(
            session.study, session.strategy, state, training=session.training, roster=roster, base_digest=base
        )
        session.record("round_planned", round=number, plan=plan.model_dump(mode="json"))
        item = session.ledger.rounds[number]
    session.watcher.round_opened(number, item.plan.roster)
    answers: dict[str, Future[Answer]] = {}
    if item.state is None:
        answers = {site: _ask(session, item.plan, site) for site in item.plan.roster if site not in item.received}
    decided = asyncio.get_running_loop().create_future()
    session.open_rounds[number] = OpenRound(number, state, answers, decided, time.monotonic())
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
    session.dispatcher.begin_round(number, get_run_context().flow_run.id)  # type: ignore[union-attr]
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
    session = current_session()
    opened, plan = session.open_rounds[number], session.ledger.rounds[number].plan
    left = plan.deadline_s - (time.monotonic() - opened.started)
    try:
        answer = await session.wait(opened.answers[site], timeout_s=max(left, 0))
        order = training_order(plan, site)
        found = session.ledger.preparations[site].items
        most = found.usable if found else None
        state, left_out = opened.state, session.left_out
        await asyncio.to_thread(receive, order, answer, state, session.store, left_out=left_out, most_samples=most)
    except InterruptedTrainingError:
        raise
    except (WardRoundError, TimeoutError) as error:
        reason = str(error) or f"no answer within {plan.deadline_s:g} s"
        session.record("update_refused", round=number, site=site, reason=reason)
        session.watcher.site_done(number, site, ok=False)
        raise SiteError(reason, site=site, round_number=number, stage="train") from None
    session.record("update_received", round=number, site=site, answer=answer.model_dump(mode="json"))
    session.watcher.site_done(number, site, ok=True)
    return {"samples": answer.update.weight if answer.update else 0, **answer.seconds}


@task(name="aggregate", task_run_name="aggregate round {number}", cache_policy=NO_CACHE, persist_result=False)
async def aggregate_updates(number: int) -> dict[str, Any]:
    """Make the next state of the received updates, in the order of the sites' names."""
    session = current_session()
    opened, item = session.open_rounds[number], session.ledger.rounds[number]

    def aggregate() -> ServerState:
        updates = updates_of(item.plan, item.received, session.store)
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
    evaluation = await evaluate_everywhere(session, number, "validation")
    seconds = time.monotonic() - opened.started
    digest = session.keep_evaluation(f"round-{number:04d}", evaluation)
    metrics = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    session.record("evaluated", round=number, evaluation=digest, metrics=metrics, seconds=seconds)
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
        await _collect(session, opened, item)
        await aggregate_updates(number)
    if item.evaluation is None:
        await evaluate_round(number)
    opened.decided.set_result(None)


async def evaluate_everywhere(session: Session, number: int, split: Split) -> Evaluation:
    """Evaluate a round's weights at every ready site and pool the sums.

    Raises:
        QuorumError: If no site could evaluate.
    """
    answers: dict[str, Answer] = {}
    reasons: dict[str, str] = {}
    asked = [_evaluate_at(session, number, site, split) for site in session.sites]
    for site, outcome in zip(session.sites, await asyncio.gather(*asked, return_exceptions=True), strict=True):
        if isinstance(outcome, Answer):
            answers[site] = outcome
        elif isinstance(outcome, WardRoundError) and not isinstance(outcome, InterruptedTrainingError):
            reasons[site] = str(outcome)
            session.record("evaluation_refused", round=number, site=site, split=split, reason=str(outcome))
        else:
            raise outcome
    if not answers:
        raise QuorumError(f"no site could evaluate round {number}. {reasons_text(reasons)}")
    return await asyncio.to_thread(pool, session.study, answers)


async def _evaluate_at(session: Session, number: int, site: str, split: Split) -> Answer:
    """Let one site evaluate the weights a round ended with, and check what it says."""
    item = session.ledger.rounds[number]
    order = evaluation_order(item.plan, site, item.require_state().weights, split)
    try:
        answer = await session.wait(session.dispatcher.submit(order), timeout_s=item.plan.deadline_s)
    except TimeoutError:
        raise SiteError("no answer in time", site=site, round_number=number, stage="evaluate") from None
    verify_answer(answer, order)
    asked, bins = session.study.task, session.study.evaluate.bins
    if answer.sums is not None:
        check_sums(answer.sums, kind=asked.kind, classes=asked.classes, bins=bins)
    return answer


async def _collect(session: Session, opened: OpenRound, item: RoundLedger) -> None:
    """Wait for the sites' updates until all are there or the deadline; check the quorum."""
    runs = [_settled(follow_training(site, opened.number, return_state=True)) for site in sorted(opened.answers)]
    for outcome in await asyncio.gather(*runs):
        if isinstance(outcome, BaseException) and not isinstance(outcome, SiteError):
            raise outcome
    if len(item.received) < item.plan.quorum:
        raise QuorumError(
            f"round {opened.number} has {len(item.received)} of the {item.plan.quorum} updates it needs. "
            f"{reasons_text(item.refused)}. "
            "Mend the sites and run the same command: what arrived is kept; or lower rounds.quorum in the study"
        )


async def _settled(run: Any) -> Any:
    """Wait for a task's run; return what it returned, or the exception it failed with."""
    state: State[Any] = await run
    return await state.aresult(raise_on_failure=False)


def _ask(session: Session, plan: RoundPlan, site: str) -> Future[Answer]:
    """Return a future of a site's answer: the one in its slot, or one to come."""
    kept = session.store.slot_answer(slot_of(plan, site))
    if kept is not None and kept.nonce == training_order(plan, site).nonce:
        done: Future[Answer] = Future()
        done.set_result(kept)
        return done
    return session.dispatcher.submit(training_order(plan, site))


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
