"""The hospitals of an analysis: who belongs to it, how a question reaches one, and how long it is waited for.

A hospital that is away is waited for by name. Where the study's rule (`attendance`) lets the analysis go on without it,
it is left out after a while, of the whole analysis.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from functools import partial
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from components.analytics.records import AnalysisAnswer, AnalysisRequest
from components.errors import DataError, WardRoundError
from components.exchange.questions import (
    MOST_BYTES,
    Occasion,
    QuestionCall,
    QuestionRequest,
    question_call,
    read_answer,
    reply_context,
    sign_question,
    verify_reply,
)
from components.exchange.sealing import open_file, sealed_size
from components.exchange.signing import read_signed
from components.files import storage_errors
from components.gateway.records import SlotKey, slot_of_question
from components.ledger import SILENT
from flows.analysis_session import AnalysisSession, request_digest
from flows.collecting import GONE_S
from flows.coordinator import CoordinatorSide
from flows.errands import Errand, Errands
from flows.readiness import reasons_text
from flows.roll import Roll
from flows.session import AWAY_S, about_time
from flows.site_runs import SiteRuns

LOOK_EVERY_S = 0.25  # at who is away, and whether the operator has stopped it
ATTEMPTS = 2  # a site whose work failed is asked once more at once
SHOWN = 1  # the round under which `flows.site_runs` shows all questions


class AnalysisRoll(Roll):
    """The hospitals of an analysis: nobody has to prepare."""

    def roster(self) -> list[str]:
        """Return who is asked.

        Raises:
            QuorumError: If a site the study names is not enrolled, or none is.
        """
        self.read_sites(now=True)
        self._require_enrolled()
        return sorted(self._expected())

    def takes_part(self, site: str) -> bool:
        """Return whether a site may be asked now."""
        self.read_sites()
        found = self._sites.get(site)
        return found is not None and self._is_member(found)

    def away(self, site: str, asked: SlotKey | None) -> str:
        """Return why nothing can come from a site now, in words; empty if it can.

        Args:
            site: The site.
            asked: What it was asked; None where that may not be, yet.
        """
        if not self.takes_part(site):
            return self._why_gone(site)
        silent_s = self.silent_s(site)
        if silent_s >= AWAY_S:
            return f"not heard of for {about_time(silent_s)}"
        return SILENT if asked is not None and self.claim_on(asked) == "lapsed" else ""


class Hospitals:
    """Puts questions to hospitals; a `flows.analysis_flow.Sites`.

    Args:
        session: The analysis.
        side: The coordinator's side of the federation.
        roll: Who belongs to it.
        runs: Shows what is asked in Prefect.
    """

    def __init__(self, session: AnalysisSession, side: CoordinatorSide, roll: AnalysisRoll, runs: SiteRuns) -> None:
        self._session, self._side, self._roll, self._runs = session, side, roll, runs
        self._errands = Errands(side, runs)
        self._away: dict[str, str] = {}
        self._said = ""

    def begin(self, run: UUID) -> None:
        """See `flows.analysis_flow.Sites`."""
        self._runs.begin_round(SHOWN, run)

    async def ask(self, request: AnalysisRequest, step: str, number: int) -> AnalysisAnswer | None:
        """See `flows.analysis_flow.Sites`."""
        for attempt in range(1, ATTEMPTS + 1):
            answer = await self._put(request, step, number, attempt)
            if answer is None or answer.status != "failed" or attempt == ATTEMPTS:
                break
            self._session.record("asked_again", number=number, site=request.site, reason=answer.reason)
        return answer

    def close(self) -> None:
        """Take no more answers."""
        self._errands.close()

    async def _put(self, request: AnalysisRequest, step: str, number: int, attempt: int) -> AnalysisAnswer | None:
        """Put a question once; what cannot be used of its answer is a failure of the site."""
        if not await self._wait(request.site):
            return None
        item = self._errand(request, step, number, attempt)
        try:
            sent = self._errands.send(item, sealed_size(MOST_BYTES))
        except ValueError as error:
            raise DataError(f"{step} cannot be asked: {error}. A coarser grid of time makes it shorter") from error
        found: asyncio.Future[AnalysisAnswer] = asyncio.wrap_future(sent)
        if not await self._wait(request.site, item.slot, found):
            self._errands.withdraw(item.slot)
            return None
        try:
            return found.result()
        except WardRoundError as error:
            return AnalysisAnswer(
                site=request.site, request_digest=request_digest(request), status="failed", reason=str(error)
            )

    async def _wait(
        self, site: str, asked: SlotKey | None = None, answer: asyncio.Future[AnalysisAnswer] | None = None
    ) -> bool:
        """Wait for a site's answer, or until it may be asked; False if it was left out meanwhile."""
        began, session = time.monotonic(), self._session
        while not (answer.done() if answer is not None else self._roll.takes_part(site)):
            session.require_going()
            away, waited_s = self._roll.away(site, asked), time.monotonic() - began
            over = waited_s > (GONE_S if away else session.study.attendance.deadline_s)
            if over and session.leave({site: away or f"no answer within {waited_s:.0f} s"}):
                self._say(site, "")
                return False
            self._say(site, away)
            if answer is None:
                await asyncio.sleep(LOOK_EVERY_S)
            else:
                await asyncio.wait({answer}, timeout=LOOK_EVERY_S)
        self._say(site, "")
        return True

    def _say(self, site: str, away: str) -> None:
        """Say for whom is waited, whenever that changes."""
        self._away[site] = away
        missing = {site: reason for site, reason in sorted(self._away.items()) if reason}
        text = f"waiting for {reasons_text(missing)}" if missing else ""
        if text != self._said:
            self._said = text
            self._session.waiting(text)
            self._runs.say(SHOWN, text)

    def _errand(self, request: AnalysisRequest, step: str, number: int, attempt: int) -> Errand:
        """Return a question as what a hospital is asked for."""
        session, side = self._session, self._side
        occasion = Occasion(side.federation, session.analysis, session.sites, number, attempt)
        call = question_call(request, occasion)
        asked = QuestionRequest(
            site=call.site, training=call.training, study=session.study, call=sign_question(call, side.secrets.signing)
        )
        slot, shown = slot_of_question(call), (f"{step} at {call.site}", SHOWN)
        return Errand(slot, asked, partial(self._read, call, slot), _end_of, Future(), shown)

    def _read(self, call: QuestionCall, slot: SlotKey, text: bytes) -> AnalysisAnswer:
        """Return what a site delivered, verified and opened."""
        reply = verify_reply(read_signed(text), self._side.signing_key(call.site), call)
        target = self._session.folder / f"{call.nonce}.opened"
        try:
            open_file(
                self._side.sealed.payload(slot), target, self._side.secrets.sealing, reply_context(call), MOST_BYTES
            )
            with storage_errors("read", target):
                return read_answer(target.read_bytes(), reply, call)
        finally:
            target.unlink(missing_ok=True)


def _end_of(answer: AnalysisAnswer) -> State[None]:
    """Return the state in which the run of a question ends."""
    if answer.status in ("done", "withheld"):
        return Completed(message=": ".join(filter(None, [answer.status, answer.reason])))
    return Failed(name="Refused" if answer.status == "refused" else None, message=answer.reason)
