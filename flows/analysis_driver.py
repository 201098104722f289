"""Drives an analysis to its end: each question to all sites side by side, what is pooled, and the next.

What is asked, and how answers are pooled, `components.analytics.analysis` says. Prefect shows it
(`flows.analysis_flow`) and has no part in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from components.analytics.analysis import Results, analyse
from components.analytics.asking import AnswersError, Ask
from components.analytics.desk import SiteDesk
from components.analytics.records import AnalysisAnswer, AnalysisRequest, Question
from components.errors import LeaseLostError, RefusedError, WardRoundError
from flows.analysis_session import AnalysisSession, SitesLeftError, StoppedAnalysisError
from flows.steps import Steps


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
class Asked:
    """A question that was put to the sites.

    Attributes:
        step: What it is asked for.
        sites: Whom.
        answers: A step for each site, which ends with whether it answered.
    """

    step: str
    sites: list[str]
    answers: Steps


class AnalysisDriver:
    """Drives one analysis.

    Args:
        session: Whom it asks, and what was answered.
        sites: How it reaches them.

    Attributes:
        opened: Keys of `asked`, as the questions are put, and None when all is over.
        asked: The questions, until somebody has shown them.
        unshown: What Prefect could not show, and why.
    """

    def __init__(self, session: AnalysisSession, sites: Sites) -> None:
        self.session, self.sites = session, sites
        self.opened: asyncio.Queue[int | None] = asyncio.Queue()
        self.asked: dict[int, Asked] = {}
        self.unshown: list[str] = []
        self._put = 0
        self._driven = asyncio.create_task(self._drive())

    async def outcome(self) -> Results:
        """Wait for the end; it goes on where nobody waits.

        Raises:
            StoppedAnalysisError: If the operator stopped or cancelled the analysis.
            AnswersError: If sites have no answer, and the study's rule does not let it go on without them.
            DataError: If a site's table is not what the study says, or the pooled patients have no answer.
        """
        return await asyncio.shield(self._driven)

    async def ask_all(self, question: Question, step: str) -> dict[str, AnalysisAnswer]:
        """Put a question to all sites side by side.

        Raises:
            StoppedAnalysisError: If the operator has stopped the analysis.
            SitesLeftError: If a site was left out.
        """
        session = self.session
        number, sites = session.begin(question, step), session.sites
        asked = Asked(step, sites, Steps([sites]))
        self._put += 1
        self.asked[self._put] = asked
        self.opened.put_nowait(self._put)
        found: dict[str, AnalysisAnswer] = {}

        async def ask(site: str) -> bool:
            answer = await self._ask(site, question, step, number)
            if answer is not None:
                found[site] = answer
            return answer is not None

        try:
            await asyncio.gather(*(asked.answers.do(site, ask(site)) for site in sites))
        except Exception as error:
            asked.answers.end(error)
            raise
        asked.answers.end()
        if session.sites != sites:
            raise SitesLeftError(f"not all answered {step}")
        return {site: found[site] for site in sites}

    async def _drive(self) -> Results:
        loop = asyncio.get_running_loop()

        def ask(question: Question, step: str) -> dict[str, AnalysisAnswer]:
            """Put a question from the thread that analyses, in the loop that asks."""
            return asyncio.run_coroutine_threadsafe(self.ask_all(question, step), loop).result()

        try:
            return await asyncio.to_thread(analyse_whole, self.session, ask)
        except StoppedAnalysisError:
            self.session.note_stopped()
            raise
        except LeaseLostError:
            raise
        except WardRoundError as error:
            self.session.note_failed(error)
            raise
        finally:
            self.opened.put_nowait(None)

    async def _ask(self, site: str, question: Question, step: str, number: int) -> AnalysisAnswer | None:
        """Put a question to a site, unless it has answered it; return its answer, None if it was left out.

        Raises:
            RefusedError: If the answer is another site's.
            DataError: If the site's table is not the one it answered from before.
            QuorumError: If no site has data for the study.
        """
        study = self.session.study
        request = AnalysisRequest(study=study.study, study_digest=study.digest, site=site, question=question)
        answer = self.session.kept(request)
        if answer is None:
            answer = await self.sites.ask(request, step, number)
            if answer is None:
                return None
            if answer.site != site:
                raise RefusedError(f"{site} answered in the name of {answer.site}")
            self.session.note(request, step, number, answer)
        return None if self.session.excuse(answer) else answer


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


_driver: ContextVar[AnalysisDriver] = ContextVar("wardround_analysis_driver")


@contextmanager
def use(driver: AnalysisDriver) -> Iterator[None]:
    """Make a driver the current one."""
    token = _driver.set(driver)
    try:
        yield
    finally:
        _driver.reset(token)


def current_driver() -> AnalysisDriver:
    """Return what drives the analysis that the running flow shows.

    Raises:
        WardRoundError: If the flow was started by itself.
    """
    try:
        return _driver.get()
    except LookupError:
        raise WardRoundError("this flow shows an analysis: start one with wardround analyse STUDY") from None
