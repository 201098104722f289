"""The updates of one round, as they come: whom to wait for, how long, whom to ask again, and when the round closes.

A round closes when everybody has answered, or when those who have are enough and the others are over their
deadlines. In a federation a round that is over its deadlines without being enough waits: it says for whom, asks again
those who could not, and closes by itself once enough is there. A simulation's sites do not come back, and it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from components.errors import QuorumError, RefusedError, SeenRoundError, SiteError, WardRoundError
from components.federation import receive, slot_of, training_order
from components.rounds import Answer, RoundPlan, ServerState
from flows.readiness import forgotten, reasons_text

if TYPE_CHECKING:
    from flows.session import Session

LOOK_EVERY_S = 1.0  # at who is away
GONE_S = 30.0  # a site not heard of for so long is not waited for where the others are enough
AGAIN_FIRST_S, AGAIN_LONGEST_S = 10.0, 600.0  # pauses before a site that could not is asked again


@dataclass
class LateAnswer:
    """An answer that a round did not wait for any longer."""

    plan: RoundPlan
    answer: asyncio.Future[Answer]


class Retries:
    """When sites that could not do their work are asked again: after pauses that double."""

    def __init__(self) -> None:
        self._pauses: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def put_off(self, site: str) -> None:
        """Ask a site again after the next pause."""
        self._pauses[site] = min(2 * self._pauses.get(site, AGAIN_FIRST_S / 2), AGAIN_LONGEST_S)
        self._due[site] = time.monotonic() + self._pauses[site]

    def is_due(self, site: str) -> bool:
        """Return whether a site's pause is over; also where it had none."""
        return time.monotonic() >= self._due.get(site, 0.0)


class Collection:
    """The updates of one round.

    Args:
        session: The training.
        number: Number of the round, which is planned.
        state: The state it starts from.
    """

    def __init__(self, session: Session, number: int, state: ServerState) -> None:
        self._session, self._number, self._state = session, number, state
        self._item = session.ledger.rounds[number]
        self._answers: dict[str, asyncio.Future[Answer]] = {}
        self._asked_at: dict[str, float] = {}
        self._retries = Retries()
        self._unanswered: set[str] = set()
        self._seen: set[str] = set()  # sites that refuse the round because they know it, or a later one, otherwise
        self._changed, self._closed = asyncio.Event(), asyncio.Event()
        self._broken: Exception | None = None
        drop_damaged(session, number)
        for site in self.sites:
            self._ask(site)

    @property
    def sites(self) -> list[str]:
        """Sites whose update is still to come, as far as the journal knows, in the order of their names."""
        return [site for site in self._item.plan.roster if site not in self._item.received]

    def step(self, site: str) -> str:
        """Return what the site's part of the round is called."""
        return f"train at {site}"

    async def follow(self, site: str) -> Answer | None:
        """Wait for a site's update, check it, and write it into the journal.

        Returns:
            Its answer, never None.

        Raises:
            SiteError: If the round closed without it.
            InterruptedTrainingError: If the operator stopped the training.
        """
        try:
            return await self._follow(site)
        except SiteError:
            raise
        except Exception as error:  # of our own, such as a full disk: nobody needs to be waited for any more
            self._broken = error
            self._changed.set()
            raise

    async def _follow(self, site: str) -> Answer:
        """See `follow`."""
        reason = ""
        while True:
            answer = self._answers[site]
            await self._session.wait_any(answer, self._closed.wait())
            if self._closed.is_set():  # what comes now comes late, also if it came this instant
                raise SiteError(reason or self._note_silence(site), site=site, round_number=self._number, stage="train")
            failed = True
            try:
                found = answer.result()
                failed = found.status == "failed"
                await asyncio.to_thread(self._verify, self._item.plan_for(site), found)
            except WardRoundError as error:
                reason = str(error)
                self._seen |= {site} if isinstance(error, SeenRoundError) else set()
            else:
                self._note_received(site, found)
                return found
            self._note_refusal(site, reason)
            if failed and self._session.hospitals is not None and site not in self._item.attempts:
                self.ask_again(site)
                continue
            await self._session.wait_any(self._asked_anew(site, answer), self._closed.wait())
            if self._answers[site] is answer:
                raise SiteError(reason, site=site, round_number=self._number, stage="train")

    async def until_closed(self) -> None:
        """Wait until the round closes, and close it.

        Raises:
            QuorumError: If it is not enough, and nobody comes back who could change that.
            InterruptedTrainingError: If the operator stopped the training.
        """
        try:
            while (left_s := self._seconds_left()) > 0:
                if self._broken is not None:
                    raise self._broken
                self._session.watch_claims(self._number, {site: self._item.plan_for(site) for site in self._unanswered})
                self._changed.clear()
                await self._session.wait_any(self._changed.wait(), timeout_s=min(left_s, LOOK_EVERY_S))
        finally:
            self._closed.set()
        self._session.waits_for(self._number, "")
        if self._item.lacking:
            raise QuorumError(
                f"round {self._number} has {self._item.lacking}. {reasons_text(self._item.refused)}. "
                "Mend the sites and run the same command: what arrived is kept; or lower rounds.quorum in the study"
            )
        await self._take_late()
        self._let_go()

    def ask_again(self, site: str) -> None:
        """Ask a site for another attempt; weights that it could not use are mended if it was they."""
        mend_base(self._session, self._number, self._state)
        attempt = self._item.plan_for(site).attempt + 1
        self._session.record("asked_again", round=self._number, site=site, attempt=attempt)
        self._ask(site)

    def _ask(self, site: str) -> None:
        """Ask a site."""
        self._answers[site] = send(self._session, self._item.plan_for(site), site)
        self._asked_at[site] = time.monotonic()
        self._unanswered.add(site)
        self._changed.set()

    async def _asked_anew(self, site: str, before: asyncio.Future[Answer]) -> None:
        """Wait until a site that could not was asked again."""
        while self._answers[site] is before:
            await asyncio.sleep(LOOK_EVERY_S)

    def _verify(self, plan: RoundPlan, answer: Answer) -> None:
        """Check an answer and its update."""
        verify(self._session, plan, answer, self._state)

    def _note_received(self, site: str, answer: Answer) -> None:
        took_s = time.monotonic() - self._asked_at[site]
        received = answer.model_dump(mode="json")
        self._session.record("update_received", round=self._number, site=site, answer=received, took_s=took_s)
        self._session.watcher.site_done(self._number, site, ok=True)
        self._unanswered.discard(site)
        self._changed.set()

    def _note_refusal(self, site: str, reason: str) -> None:
        self._session.record("update_refused", round=self._number, site=site, reason=reason)
        self._session.watcher.site_done(self._number, site, ok=False)
        self._unanswered.discard(site)
        self._retries.put_off(site)
        self._broken = self._broken or forgotten(self._item, self._seen)
        self._changed.set()

    def _note_silence(self, site: str) -> str:
        """Record that a round closed without a site, and return why."""
        away = self._session.away(site)
        reason = away or f"no answer within {time.monotonic() - self._asked_at[site]:.0f} s"
        self._session.record("update_refused", round=self._number, site=site, reason=reason)
        self._session.watcher.site_done(self._number, site, ok=False)
        return reason

    def _seconds_left(self) -> float:
        """Return how long the round may stay open; 0 if it closes now."""
        lacking, now = self._item.lacking, time.monotonic()
        left_s = max((self._due(site, enough=not lacking) - now for site in self._unanswered), default=0.0)
        if left_s > 0 or not lacking or self._session.hospitals is None:
            return left_s
        self._wait_for_quorum(lacking)
        return LOOK_EVERY_S

    def _due(self, site: str, *, enough: bool) -> float:
        """Return until when a site is waited for."""
        deadline_s = self._item.plan.deadline_s
        if self._session.hospitals is not None:
            if enough and self._session.hospitals.silent_s(site) > GONE_S:
                return 0.0
            deadline_s = self._session.deadline_s(site, deadline_s)
        return self._asked_at[site] + deadline_s

    def _wait_for_quorum(self, lacking: str) -> None:
        """Say whom the round waits for, and ask again those who could not."""
        missing = {site: self._item.refused.get(site, "") for site in self.sites}
        missing |= {site: self._session.at_work(self._item.plan_for(site), site) for site in self._unanswered}
        say_whom(self._session, self._number, lacking, missing)
        for site in self.sites:
            if site not in self._unanswered and self._retries.is_due(site):
                self.ask_again(site)

    def _let_go(self) -> None:
        """Withdraw what nobody waits for any more, or keep it for the next round, as the study says."""
        for site in sorted(self._unanswered):
            plan = self._item.plan_for(site)
            if self._session.hospitals is None:
                self._answers[site].cancel()
            elif self._session.study.rounds.late == "discount":
                self._session.late[site] = LateAnswer(plan, self._answers[site])
            else:
                self._session.hospitals.withdraw(training_order(plan, site))

    async def _take_late(self) -> None:
        """Use what arrived of the round before, or let it go; each is recorded."""
        for site, late in sorted(self._session.late.items()):
            if late.plan.round >= self._number:
                continue
            del self._session.late[site]
            reason = await asyncio.to_thread(self._late_reason, site, late)
            if reason:
                self._session.record("late_dropped", round=self._number, site=site, of=late.plan.round, reason=reason)
            else:
                answer, plan = late.answer.result().model_dump(mode="json"), late.plan.model_dump(mode="json")
                self._session.record("late_update", round=self._number, plan=plan, answer=answer)

    def _late_reason(self, site: str, late: LateAnswer) -> str:
        """Return why a late answer cannot be used; empty if it can."""
        if not late.answer.done():
            assert self._session.hospitals is not None  # only there an answer is waited for beyond its round
            self._session.hospitals.withdraw(training_order(late.plan, site))
            return "not there when the next round closed"
        if site in self._item.received:
            return "the site's update for the next round is there"
        try:
            self._verify(late.plan, late.answer.result())
        except WardRoundError as error:
            return str(error)
        return ""


def send(session: Session, plan: RoundPlan, site: str) -> asyncio.Future[Answer]:
    """Ask a site to train, unless its update is in its slot: it may have finished while no coordinator was there."""
    order = training_order(plan, site)
    kept = session.store.slot_answer(slot_of(order.plan, site))
    answer: asyncio.Future[Answer]
    if kept is not None and kept.nonce == order.nonce:
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(kept)
    else:
        answer = asyncio.wrap_future(session.dispatcher.submit(order))
    answer.add_done_callback(look_at)
    return answer


def say_whom(session: Session, number: int, lacking: str, missing: Mapping[str, str]) -> None:
    """Record and show whom a round waits for.

    Args:
        session: The training.
        number: The round.
        lacking: What it lacks, in words.
        missing: Sites that have not delivered, and why as far as it is known.
    """
    reasons = {site: session.speaks_otherwise(site) or reason for site, reason in missing.items()}
    session.waits_for(number, f"waiting for quorum: {lacking}, missing: {reasons_text(reasons)}")


def drop_damaged(session: Session, number: int) -> list[str]:
    """Count no update that was received before a restart and is damaged now; return the sites to ask for it again."""
    item, lost = session.ledger.rounds[number], []
    for site, plan in sorted(item.used_plans.items()):
        answer = item.received.get(site)
        try:
            if answer is not None and answer.update is not None:
                session.store.get_update(slot_of(plan, site), answer.update)
        except RefusedError as error:
            session.record("update_lost", round=number, site=site, reason=str(error))
            lost.append(site)
    return lost


def mend_base(session: Session, number: int, state: ServerState) -> None:
    """Write the weights that a round begins from again, if they are damaged."""
    digest = session.ledger.rounds[number].plan.base_digest
    if session.store.mend(digest, state.weights):
        session.record("weights_mended", round=number, weights=digest)


def verify(session: Session, plan: RoundPlan, answer: Answer, state: ServerState) -> None:
    """Check an answer and its update.

    Args:
        session: The training.
        plan: The plan that the site was asked with.
        answer: What it answered.
        state: The state that the current round starts from; an update of an earlier one changed other weights.

    Raises:
        RefusedError: As `components.federation.receive`.
    """
    found = session.ledger.preparations[answer.site].items
    if plan.round != state.round + 1:
        state = replace(state, weights=session.store.get(plan.base_digest))
    receive(
        training_order(plan, answer.site), answer, state, session.store,
        left_out=session.left_out, most_samples=found.usable if found else None,
        max_change=session.study.rounds.max_change,
    )  # fmt: skip


def look_at(answer: asyncio.Future[Answer]) -> None:
    """Look at what became of an answer, so that asyncio does not complain that nobody did."""
    if not answer.cancelled():
        answer.exception()
