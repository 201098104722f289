"""An analysis as Prefect shows it: a run, and in it a task run for each question to each site.

What is asked, and how answers are pooled, `components.analytics.analysis` says; the flow carries the questions.
Imported once Prefect's settings are known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from components.analytics.analysis import Results, analyse
from components.analytics.desk import SiteDesk
from components.analytics.plan import AnalysisStudy
from components.analytics.records import AnalysisAnswer, AnalysisRequest, Question
from components.errors import RefusedError, WardRoundError


@dataclass(frozen=True)
class OpenAnalysis:
    """What a running analysis works with.

    Attributes:
        study: The study.
        analysis: Identifier.
        desks: The sites, by name.
        tell: Is told each step as it is taken.
        stop: Ends the analysis before its next step.
    """

    study: AnalysisStudy
    analysis: str
    desks: Mapping[str, SiteDesk]
    tell: Callable[[str], None]
    stop: asyncio.Event


class StoppedAnalysisError(WardRoundError):
    """The operator stopped the analysis; the same command begins it anew."""

    exit_code = 130


_open: ContextVar[OpenAnalysis] = ContextVar("open_analysis")


@contextmanager
def use(analysis: OpenAnalysis) -> Iterator[None]:
    """Make an analysis the current one."""
    token = _open.set(analysis)
    try:
        yield
    finally:
        _open.reset(token)


def current_analysis() -> OpenAnalysis:
    """Return the analysis that the running flow shows.

    Raises:
        WardRoundError: If the flow was started by itself.
    """
    try:
        return _open.get()
    except LookupError:
        raise WardRoundError("this flow shows an analysis: start one with wardround analyse STUDY") from None


@flow(name="federated-analysis", flow_run_name="{analysis}", persist_result=False)
async def federated_analysis(study: str, analysis: str) -> Results:
    """Ask the sites, step by step, and pool what they answer.

    Args:
        study: Name of the study.
        analysis: Identifier of the analysis.

    Returns:
        What was found; it stays in this process.

    Raises:
        DataError: If a site's table is not what the study says, or the pooled patients have no answer.
    """
    loop = asyncio.get_running_loop()

    def ask(question: Question, step: str) -> dict[str, AnalysisAnswer]:
        """Put a question from the thread that analyses, in the loop that Prefect lives in."""
        return asyncio.run_coroutine_threadsafe(ask_all(question, step), loop).result()

    found = await asyncio.to_thread(analyse, current_analysis().study, ask)
    await acreate_markdown_artifact(
        key=f"result-of-{analysis}".lower().replace("_", "-").replace(".", "-"),
        markdown=_outline(found),
        description=f"{analysis}: who answered",
    )
    return found


async def ask_all(question: Question, step: str) -> dict[str, AnalysisAnswer]:
    """Put a question to all sites side by side; what crosses, both ways, is JSON that is checked where it arrives.

    Raises:
        StoppedAnalysisError: If the operator has stopped the analysis.
    """
    here = current_analysis()
    if here.stop.is_set():
        raise StoppedAnalysisError(f"{here.analysis} was stopped before {step}; the same command begins anew")
    here.tell(step)
    requests = {
        site: AnalysisRequest(study=here.study.study, study_digest=here.study.digest, site=site, question=question)
        for site in sorted(here.desks)
    }
    texts = await asyncio.gather(
        *(ask_site(site, step, request.model_dump_json()) for site, request in requests.items())
    )
    return {site: checked(site, text) for site, text in zip(requests, texts, strict=True)}


@task(name="ask", task_run_name="{site}: {step}", cache_policy=NO_CACHE, persist_result=False)
async def ask_site(site: str, step: str, request: str) -> str:
    """Put one question to one site."""
    return await asyncio.to_thread(current_analysis().desks[site].answer_text, request)


def checked(site: str, text: str) -> AnalysisAnswer:
    """Read a site's answer.

    Raises:
        RefusedError: If it is another site's.
    """
    answer = AnalysisAnswer.model_validate_json(text)
    if answer.site != site:
        raise RefusedError(f"{site} answered in the name of {answer.site}")
    return answer


def _outline(found: Results) -> str:
    """Return who answered, as a markdown table for the Prefect UI."""
    lines = [f"## {found.study.study}", "", "| method | without | because |", "|---|---|---|"]
    lines += [f"| {method} | {site} | {why} |" for method, each in found.left_out.items() for site, why in each.items()]
    return "\n".join([*lines, "", f"Sites: {', '.join(found.sites)}.", "", *(f"- {note}" for note in found.notes)])
