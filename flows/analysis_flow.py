"""An analysis as Prefect shows it: a run, and in it a task run for each question to each site.

What is asked, and how answers are pooled, `components.analytics.analysis` says; the flow carries the questions.
Imported once Prefect's settings are known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from components.analytics.analysis import Results, analyse
from components.analytics.asking import AnswersError, Ask
from components.analytics.desk import SiteDesk
from components.analytics.records import AnalysisAnswer, AnalysisRequest, Question
from components.errors import RefusedError, WardRoundError
from flows.analysis_session import AnalysisSession, SitesLeftError


class Sites(Protocol):
    """How a question reaches the sites."""

    def begin(self, run: UUID) -> None:
        """Show under a flow run what the sites are asked from now on."""
        ...

    async def ask(self, request: AnalysisRequest, step: str, number: int) -> AnalysisAnswer | None:
        """Return a site's answer; None if it was left out.

        Raises:
            StoppedAnalysisError: If the operator stopped the analysis.
        """
        ...


class Desks:
    """Sites in this process.

    Args:
        desks: By name.
    """

    def __init__(self, desks: Mapping[str, SiteDesk]) -> None:
        self._desks = desks

    def begin(self, run: UUID) -> None:
        """See `Sites`; their questions are tasks of the flow."""

    async def ask(self, request: AnalysisRequest, step: str, number: int) -> AnalysisAnswer | None:
        """See `Sites`; what crosses, both ways, is JSON that is checked where it arrives."""
        text = await asyncio.to_thread(self._desks[request.site].answer_text, request.model_dump_json())
        return AnalysisAnswer.model_validate_json(text)


@dataclass(frozen=True)
class OpenAnalysis:
    """What a running analysis works with.

    Attributes:
        session: Whom it asks, and what was answered.
        sites: How it reaches them.
    """

    session: AnalysisSession
    sites: Sites


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
    here, loop = current_analysis(), asyncio.get_running_loop()
    run = flow_run.id
    if run is not None:
        here.sites.begin(UUID(run))

    def ask(question: Question, step: str) -> dict[str, AnalysisAnswer]:
        """Put a question from the thread that analyses, in the loop that Prefect lives in."""
        return asyncio.run_coroutine_threadsafe(ask_all(question, step), loop).result()

    found = await asyncio.to_thread(analyse_whole, here.session, ask)
    await acreate_markdown_artifact(
        key=f"result-of-{analysis}".lower().replace("_", "-").replace(".", "-"),
        markdown=_outline(found),
        description=f"{analysis}: who answered",
    )
    return found


def analyse_whole(session: AnalysisSession, ask: Ask) -> Results:
    """Analyse; where a site is left out in the middle, again without it, so that all results are of the same sites.

    Raises:
        AnswersError: If sites have no answer, and the study's rule does not let it go on without them.
        DataError: As `components.analytics.analysis.analyse`.
    """
    while True:
        try:
            return session.annotated(analyse(session.study, ask))
        except SitesLeftError:
            continue
        except AnswersError as error:
            if not session.leave(error.reasons):
                raise


async def ask_all(question: Question, step: str) -> dict[str, AnalysisAnswer]:
    """Put a question to all sites side by side.

    Raises:
        StoppedAnalysisError: If the operator has stopped the analysis.
        SitesLeftError: If a site was left out.
    """
    session = current_analysis().session
    number, sites = session.begin(question, step), session.sites
    study = session.study
    requests = [
        AnalysisRequest(study=study.study, study_digest=study.digest, site=site, question=question) for site in sites
    ]
    answers = await asyncio.gather(
        *(ask_site(request.site, step, number, request.model_dump_json()) for request in requests)
    )
    if session.sites != sites:
        raise SitesLeftError(f"not all answered {step}")
    return {site: AnalysisAnswer.model_validate_json(answer) for site, answer in zip(sites, answers, strict=True)}


@task(name="ask", task_run_name="{site}: {step}", cache_policy=NO_CACHE, persist_result=False)
async def ask_site(site: str, step: str, number: int, request: str) -> str:
    """Put one question to one site, unless it has answered it; return its answer, nothing if it was left out.

    Raises:
        RefusedError: If the answer is another site's.
        DataError: If the site's table is not the one it answered from before.
    """
    here, asked = current_analysis(), AnalysisRequest.model_validate_json(request)
    answer = here.session.kept(asked)
    if answer is None:
        answer = await here.sites.ask(asked, step, number)
        if answer is None:
            return ""
        if answer.site != site:
            raise RefusedError(f"{site} answered in the name of {answer.site}")
        here.session.note(asked, step, number, answer)
    return answer.model_dump_json()


def _outline(found: Results) -> str:
    """Return who answered, as a markdown table for the Prefect UI."""
    lines = [f"## {found.study.study}", "", "| method | without | because |", "|---|---|---|"]
    lines += [f"| {method} | {site} | {why} |" for method, each in found.left_out.items() for site, why in each.items()]
    return "\n".join([*lines, "", f"Sites: {', '.join(found.sites)}.", "", *(f"- {note}" for note in found.notes)])
