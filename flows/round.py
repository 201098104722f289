"""A federated round as Prefect shows it: a run, and a task run in it for each step.

What is done, `flows.driven_round` does; the flow follows it. It may lag behind, or fail with Prefect, without
touching the round.
"""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.states import Cancelled, Completed

from components.ledger import RoundLedger
from flows.driven_round import STILL_AT_WORK
from flows.driver import current_driver
from flows.session import InterruptedTrainingError, Session
from flows.showing import state_of


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
    session = current_driver().session
    if session.hospitals is not None:
        session.hospitals.begin_round(number, get_run_context().flow_run.id)  # type: ignore[union-attr]
    try:
        await follow_steps(number)
    except InterruptedTrainingError as stopped:
        return Cancelled(message=str(stopped))
    item = session.ledger.rounds[number]
    await acreate_markdown_artifact(
        key=f"round-{number}-of-{training}".lower().replace("_", "-").replace(".", "-"),
        markdown=round_table(session, number),
        description=f"Round {number} of {training}: who took part, and version {item.version}",
    )
    return {"round": number, "version": item.version, "metrics": item.metrics}


async def follow_steps(number: int) -> None:
    """Show the steps of a round, or of the training's end, as they are done; raise what ended them early."""
    steps = current_driver().steps[number]
    for stage in steps.stages:
        if await steps.reached(stage):
            await asyncio.gather(*(state_of(follow_step(name, number, return_state=True)) for name in stage))
    await steps.over()


@task(name="step", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
async def follow_step(name: str, number: int) -> Any:
    """Wait for one step."""
    found = await current_driver().steps[number].follow(name)
    return Completed(name="AtWork", message=STILL_AT_WORK["at_work"]) if found == STILL_AT_WORK else found


def _part(item: RoundLedger, site: str) -> str:
    """Return what part a site took in a round."""
    if site not in item.received:
        return f"no: {item.missing[site]}"
    age = item.staleness[site]
    return f"yes, {age} round{'s' * (age != 1)} old" if age else "yes"


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
        part = _part(item, site)
        seconds = f"{answer.seconds.get('train', 0):.2f}" if answer else ""
        lines.append(f"| {site} | {part} | {used} | {expected} | {seconds} |")
    lines += ["", "| pooled validation metric | value |", "|---|---|"]
    lines += [f"| {name} | {value:.4f} |" for name, value in sorted(item.metrics.items()) if value is not None]
    link = session.recorder.version_url(session.study.study, item.version)
    lines += ["", f"{item.seconds:.1f} s. [Version {item.version} in MLflow]({link})"]
    return "\n".join(lines)
