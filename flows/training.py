"""A federated training as Prefect shows it: a run with its rounds as runs below it.

What is done, `flows.driver` does; the flow follows it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.schemas.objects import State
from prefect.context import get_run_context
from prefect.states import Cancelled

from flows.driver import END, Driver, current_driver
from flows.leftovers import end_leftovers
from flows.round import federated_round, follow_steps
from flows.session import InterruptedTrainingError

SIDE_BY_SIDE = 4  # rounds that are shown at a time; where Prefect is slower than the rounds, they queue
PROGRESS_EVERY_S = 3.0


@flow(name="federated-training", flow_run_name="{training}", persist_result=False)
async def federated_training(study: str, training: str) -> dict[str, Any] | State[Any]:
    """Follow the training of one model over all sites, round by round.

    Args:
        study: Name of the study.
        training: Identifier of the training, as the journal has it.

    Returns:
        Why it ended, the best round, its version, and where the champion stands.

    Raises:
        QuorumError: If a round had too few updates. What arrived is kept; the same call continues.
    """
    driver, own = current_driver(), get_run_context().flow_run.id  # type: ignore[union-attr]
    driver.start()
    driver.start_recording(str(own))
    if driver.session.others or driver.session.journal.last("training_resumed", training=training) is not None:
        await end_leftovers(training, driver.session.others, own)
    try:
        await _show(driver)
        return await driver.outcome()
    except InterruptedTrainingError as stopped:
        return Cancelled(message=str(stopped))


async def _show(driver: Driver) -> None:
    """Show every round, and what is done after the last."""
    session, places = driver.session, asyncio.Semaphore(SIDE_BY_SIDE)
    artifact = await acreate_progress_artifact(
        progress=0.0, key=artifact_key(session.training), description=f"Rounds of {session.training}"
    )
    looked = time.monotonic()

    async def show_progress(number: int) -> None:
        nonlocal looked
        if time.monotonic() - looked > PROGRESS_EVERY_S:
            looked = time.monotonic()
            await aupdate_progress_artifact(artifact_id=artifact, progress=100.0 * number / session.study.rounds.max)

    async def show_round(number: int) -> None:
        async with places:
            try:
                state = await federated_round(number=number, training=session.training, return_state=True)
                if state.is_completed():
                    await show_progress(number)
            except Exception as error:  # of Prefect's: what counts is done all the same
                driver.unshown.append(f"round {number}: {error}")
            finally:
                del driver.steps[number]

    async with asyncio.TaskGroup() as shown:
        while (number := await driver.opened.get()) is not None and number != END:
            shown.create_task(show_round(number))
    if number == END:
        await follow_steps(END)
        try:
            await aupdate_progress_artifact(
                artifact_id=artifact, progress=100.0
            )  # it may have converged before the last
        except Exception as error:  # of Prefect's: what counts is done all the same
            driver.unshown.append(f"the progress: {error}")


def artifact_key(training: str) -> str:
    """Return the key of a training's progress artifact."""
    return f"progress-of-{training}".lower().replace("_", "-").replace(".", "-")
