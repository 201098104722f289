"""The federated training: rounds until the global model has converged, then its judgement.

`federated_training` is the Prefect flow. It needs an open `flows.session.Session`; `flows.run` opens one
on this machine.
"""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.states import Cancelled

from components.comparison import Contest, compare_models
from components.errors import QuorumError
from components.rounds import ServerState
from components.sums_file import write_sums
from flows.cancellation import cancellation
from flows.leftovers import end_leftovers
from flows.readiness import lacking_sites
from flows.round import evaluate_everywhere, federated_round, open_round
from flows.session import InterruptedTrainingError, OpenRound, Session, current_session


@flow(name="federated-training", flow_run_name="{training}", persist_result=False)
async def federated_training(study: str, training: str) -> dict[str, Any] | State[Any]:
    """Train one model over all sites, round by round.

    Args:
        study: Name of the study.
        training: Identifier of the training, as the journal has it.

    Returns:
        Why it ended, the best round, its version, and where the champion stands.

    Raises:
        QuorumError: If a round had too few updates. What arrived is kept; the same call continues.
    """
    session = current_session()
    own = get_run_context().flow_run.id  # type: ignore[union-attr]
    closing: list[asyncio.Task[Any]] = []
    if session.journal.last("training_resumed", training=training) is not None:
        await end_leftovers(training, own)
    artifact = await acreate_progress_artifact(
        progress=0.0, key=artifact_key(training), description=f"Rounds of {training}"
    )
    try:
        await _rounds(session, closing, artifact, str(own))
        await asyncio.gather(*closing)
        return await _finish(session)
    except InterruptedTrainingError as stopped:
        why = cancellation(session.folder)
        if why is not None:
            session.record("cancelled", reason="cancelled", why=why)
        else:
            session.record("interrupted", reason=str(stopped))
        await asyncio.gather(*closing, return_exceptions=True)
        session.recorder.finish("KILLED", str(stopped))
        return Cancelled(message=str(stopped))
    except Exception:
        await asyncio.gather(*closing, return_exceptions=True)
        session.recorder.finish("FAILED")
        raise


@task(name="test", task_run_name="test round {number} at every site", cache_policy=NO_CACHE, persist_result=False)
async def test_best(number: int) -> dict[str, float]:
    """Judge the best round once on the test items of every site."""
    session = current_session()
    evaluation, _ = await evaluate_everywhere(session, number, "test")
    digest = session.keep_evaluation("test", evaluation)
    metrics = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    session.record("tested", round=number, evaluation=digest, metrics=metrics)
    return metrics


@task(name="compare", task_run_name="compare with {kinds}", cache_policy=NO_CACHE, persist_result=False)
async def compare(kinds: str) -> None:
    """Train what the global model is compared with, and test it on the same items."""
    session = current_session()
    contest = Contest(
        study=session.study,
        training=session.training,
        sites=session.sites,
        initial=session.ledger.initial,
        dispatcher=session,
        store=session.store,
    )
    compared = await session.wait(asyncio.to_thread(compare_models, contest, session.study.evaluate.compare))
    digest = write_sums(session.folder / "compared.json", compared)
    session.record("compared", kinds=kinds, evaluation=digest)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
async def report() -> dict[str, Any]:
    """Write figures and report, move the aliases, end the MLflow runs."""
    session = current_session()
    return await asyncio.wrap_future(session.recorder.conclude(session))


def next_number(session: Session, after: int) -> int | None:
    """Return the first round after a number that is not committed; None if the training ends before it."""
    for number in range(after + 1, session.study.rounds.max + 1):
        if session.progress_until(number - 1).converged:
            return None
        item = session.ledger.rounds.get(number)
        if item is None or item.version is None:
            return number
    return None


def take_up(session: Session, number: int, state: ServerState | None = None) -> OpenRound:
    """Open a round, unless it is open; `state` spares reading the state it works on."""
    if number in session.open_rounds:
        return session.open_rounds[number]
    item = session.ledger.rounds.get(number)
    reached = number if item is not None and item.state is not None else number - 1
    if state is None or state.round != reached:
        state = session.state_after(reached)
    return open_round(session, state, number)


async def _rounds(session: Session, closing: list[asyncio.Task[Any]], artifact: Any, flow_run: str) -> None:
    """Run rounds until convergence or the last one; each one's end runs beside the next.

    The recorder starts once the first orders are out: what it imports takes seconds that no site waits for.
    """
    state: ServerState | None = None
    number = next_number(session, 0)
    while number is not None:
        if number not in session.open_rounds:
            await _gather_sites(session, number)
        opened = take_up(session, number, state)
        session.recorder.start(session, flow_run)
        following = asyncio.create_task(_follow(session, number))
        closing.append(following)
        either: set[asyncio.Future[Any]] = {opened.decided, following}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not opened.decided.done():
            await following  # it failed or was stopped, and this raises
        state = opened.state
        closing.append(asyncio.create_task(_show_progress(artifact, 100.0 * number / session.study.rounds.max)))
        _raise_first_error(closing)
        number = next_number(session, number)
    session.recorder.start(session, flow_run)


async def _gather_sites(session: Session, number: int) -> None:
    """Take in who came and who went; where too few are there for a round that is not planned, wait for them.

    Raises:
        QuorumError: If too few are there, and nobody comes back.
    """
    session.follow_membership()
    while number not in session.ledger.rounds and (lacking := lacking_sites(session)):
        if session.hospitals is None:
            raise QuorumError(f"round {number} cannot begin: {lacking}")
        session.hospitals_said(number, f"waiting for quorum: {lacking}")
        await session.wait_any(timeout_s=1.0)
        session.follow_membership()
        if not lacking_sites(session):
            session.hospitals_said(number, "")


async def _follow(session: Session, number: int) -> None:
    """Run a round's flow to its end; raise what ended it, the operator's stop included."""
    state = await federated_round(number=number, training=session.training, return_state=True)
    if state.is_cancelled():  # its result would be an error of Prefect's own
        raise InterruptedTrainingError(state.message)
    outcome = await state.aresult(raise_on_failure=False)
    if isinstance(outcome, BaseException):
        raise outcome


async def _finish(session: Session) -> dict[str, Any]:
    """Test the best round, compare it, move the aliases, report."""
    progress = session.progress()
    if not progress.best_round:
        raise QuorumError(
            f"{session.metric} was not defined in any round: are there items of each class in the validation split?"
        )
    session.watcher.testing(progress.best_round)
    if session.ledger.tested is None:
        await test_best(progress.best_round)
    kinds = session.study.evaluate.compare
    if kinds and session.ledger.compared is None:
        session.watcher.comparing(kinds)
        await compare(" and ".join(kinds))
    outcome = await report()
    reason = "converged" if progress.converged else "all rounds done"
    best = {"reason": reason, "best_round": progress.best_round, "value": progress.best_value, **outcome}
    session.record("training_finished", **best)
    return best


def artifact_key(training: str) -> str:
    """Return the key of a training's progress artifact."""
    return f"progress-of-{training}".lower().replace("_", "-").replace(".", "-")


async def _show_progress(artifact: Any, share: float) -> None:
    await aupdate_progress_artifact(artifact_id=artifact, progress=min(share, 100.0))


def _raise_first_error(closing: list[asyncio.Task[Any]]) -> None:
    for following in closing:
        if following.done() and not following.cancelled() and following.exception() is not None:
            following.result()
