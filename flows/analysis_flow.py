"""An analysis as Prefect shows it: a run, and in it a task run for each question to each site.

What is done, `flows.analysis_driver` does; the flow follows it. Imported once Prefect's settings are known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from components.analytics.analysis import Results
from flows.analysis_driver import AnalysisDriver, current_driver
from flows.analysis_session import StoppedAnalysisError
from flows.showing import state_of


@flow(name="federated-analysis", flow_run_name="{analysis}", persist_result=False)
async def federated_analysis(study: str, analysis: str) -> dict[str, Any] | State[Any]:
    """Follow an analysis, question by question.

    Args:
        study: Name of the study.
        analysis: Identifier of the analysis.

    Returns:
        Of which sites its results are.

    Raises:
        DataError: If a site's table is not what the study says, or the pooled patients have no answer.
    """
    driver, run = current_driver(), flow_run.id
    if run is not None:
        driver.sites.begin(UUID(run))
    await _tried(driver, _show(driver))
    try:
        found = await driver.outcome()
    except StoppedAnalysisError as stopped:
        return Cancelled(message=str(stopped))
    key = f"result-of-{analysis}".lower().replace("_", "-").replace(".", "-")
    words = f"{analysis}: who answered"
    await _tried(driver, acreate_markdown_artifact(key=key, markdown=_outline(found), description=words))
    return {"sites": found.sites}


async def _show(driver: AnalysisDriver) -> None:
    """Show every question as it is put."""
    while (key := await driver.opened.get()) is not None:
        asked = driver.asked[key]
        shown = [state_of(follow_answer(site, asked.step, key, return_state=True)) for site in asked.sites]
        try:
            await asyncio.gather(*shown)
        finally:
            del driver.asked[key]


@task(name="ask", task_run_name="{site}: {step}", cache_policy=NO_CACHE, persist_result=False)
async def follow_answer(site: str, step: str, key: int) -> State[Any]:
    """Wait for one site's answer to one question."""
    answered = await current_driver().asked[key].answers.follow(site)
    return Completed(message="answered") if answered else Completed(name="LeftOut", message="goes on without it")


async def _tried(driver: AnalysisDriver, work: Awaitable[Any]) -> None:
    """Show something; what Prefect cannot show is done all the same."""
    try:
        await work
    except Exception as error:
        driver.unshown.append(str(error) or type(error).__name__)


def _outline(found: Results) -> str:
    """Return who answered, as a markdown table for the Prefect UI."""
    lines = [f"## {found.study.study}", "", "| method | without | because |", "|---|---|---|"]
    lines += [f"| {method} | {site} | {why} |" for method, each in found.left_out.items() for site, why in each.items()]
    return "\n".join([*lines, "", f"Sites: {', '.join(found.sites)}.", "", *(f"- {note}" for note in found.notes)])
