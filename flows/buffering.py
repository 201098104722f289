"""The updates of one round of an asynchronous training, as they come: the first ones make the next version (FedBuff).

::

    round 4 begins    south and west have delivered: they are asked; north is at work since round 2
    round 4 closes    as soon as `rounds.buffer` of the three have delivered, whoever they are; the others go on
    round 5 begins    those that delivered are asked, with the new weights

An update counts in the round it arrives in, with what the site learned discounted by how many versions there have been
since it began (`components.federation.late_update`). What the journal says decides: who is asked, whose update
counts in which round. A round that is taken up again is the same round.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.errors import QuorumError, SeenRoundError, SiteError, WardRoundError
from components.federation import training_order
from components.rounds import Answer, RoundPlan, ServerState
from flows.collecting import (
    LOOK_EVERY_S,
    Retries,
    drop_damaged,
    mend_base,
    say_whom,
    send,
    verify,
)
from flows.evaluating import ask_newcomer
from flows.readiness import forgotten, reasons_text

if TYPE_CHECKING:
    from flows.session import Session


@dataclass
class Flight:
    """A site at work.

    Attributes:
        plan: What it was asked with; of this round or an earlier one.
        answer: What it answers.
        asked_at: When it was asked, on the monotonic clock.
        overdue: How often it was asked anew since it delivered: each time it has twice as long.
        arrived_at: When it answered.
    """

    plan: RoundPlan
    answer: asyncio.Future[Answer]
    asked_at: float
    overdue: int = 0
    arrived_at: float = math.inf

    def note_arrival(self, _: object) -> None:
        """Note the time."""
        self.arrived_at = time.monotonic()


class Buffer:
    """The updates of one round.

    Args:
        session: The training.
        number: Number of the round, which is planned.
        state: The state it starts from.
        new: Whether it was planned now, and not taken up again.
    """

    def __init__(self, session: Session, number: int, state: ServerState, *, new: bool) -> None:
        self._session, self._number, self._state = session, number, state
        self._item = session.ledger.rounds[number]
        self._retries = Retries()
        self._seen: set[str] = set()  # sites that refuse the round because they know it, or a later one, otherwise
        for site in session.flights.keys() - session.ledger.in_flight.keys():  # it has left
            let_go(session, site)
        for site, plan in sorted(session.ledger.in_flight.items()):
            if site not in session.flights:
                if new:
                    ask_newcomer(session, plan, site)
                self._send(site, plan)
        for site in drop_damaged(session, number):
            self._ask_again(site)
        loop = asyncio.get_running_loop()
        self.sites = [site for site in self._item.plan.roster if site not in self._item.received]
        self._since = {site: plan.round for site, plan in session.ledger.in_flight.items()}
        self._ends: dict[str, asyncio.Future[Answer | None]] = {site: loop.create_future() for site in self.sites}

    def step(self, site: str) -> str:
        """Return what the site's part of the round is called."""
        since = self._since.get(site, self._number)
        return f"train at {site}" + (f", since round {since}" if since < self._number else "")

    async def follow(self, site: str) -> Answer | None:
        """Wait until a site's update has arrived, or the round has closed.

        Returns:
            Its answer; None if it is still at work.

        Raises:
            SiteError: If it could not do its work.
        """
        return await asyncio.shield(self._ends[site])

    async def until_closed(self) -> None:
        """Wait until enough updates have arrived.

        Raises:
            QuorumError: If they cannot, and nobody comes back who could change that.
            InterruptedTrainingError: If the operator stopped the training.
        """
        session = self._session
        try:
            while self._item.lacking:
                if (older := forgotten(self._item, self._seen)) is not None:
                    raise older
                arrived = [
                    (flight.arrived_at, site) for site, flight in session.flights.items() if flight.answer.done()
                ]
                if arrived:
                    await self._take(min(arrived)[1])
                    continue
                self._look()
                answers = [flight.answer for flight in session.flights.values()]
                await session.wait_any(*answers, timeout_s=LOOK_EVERY_S)
        finally:
            self._end()
        session.waits_for(self._number, "")

    async def _take(self, site: str) -> None:
        """Check what a site answered, and write it into the journal."""
        flight = self._session.flights.pop(site)
        failed = True
        try:
            answer = flight.answer.result()
            failed = answer.status == "failed"
            await asyncio.to_thread(verify, self._session, flight.plan, answer, self._state)
        except WardRoundError as error:
            self._seen |= {site} if isinstance(error, SeenRoundError) else set()
            self._refuse(site, str(error))
            if failed and self._session.hospitals is not None and site not in self._item.attempts:
                self._ask_again(site)
            return
        plan = {"plan": flight.plan.model_dump(mode="json")} if flight.plan.round < self._number else {}
        self._session.record(
            "update_received", round=self._number, site=site, answer=answer.model_dump(mode="json"),
            took_s=max(min(flight.arrived_at, time.monotonic()) - flight.asked_at, 0.0), **plan,
        )  # fmt: skip
        self._session.watcher.site_done(self._number, site, ok=True)
        if site in self._ends:
            self._ends[site].set_result(answer)

    def _refuse(self, site: str, reason: str) -> None:
        """Record that a site's work came to nothing."""
        self._session.record("update_refused", round=self._number, site=site, reason=reason)
        self._session.watcher.site_done(self._number, site, ok=False)
        self._retries.put_off(site)

    def _look(self) -> None:
        """Ask anew whoever is over its deadline; where too few are left who could deliver, see what can be done."""
        session, now = self._session, time.monotonic()
        session.watch_claims(self._number, {site: flight.plan for site, flight in session.flights.items()})
        for site, flight in sorted(session.flights.items()):
            if now >= flight.asked_at + self._deadline_s(site, flight):
                self._give_up(site, flight)
        present = [site for site in session.flights if not session.away(site)]
        if len(self._item.received) + len(present) < self._item.plan.quorum:
            self._wait_for_quorum()

    def _deadline_s(self, site: str, flight: Flight) -> float:
        """Return how long a site may take."""
        most_s = flight.plan.deadline_s
        if self._session.hospitals is None:
            return most_s
        return min(self._session.deadline_s(site, most_s) * 2.0**flight.overdue, most_s)

    def _give_up(self, site: str, flight: Flight) -> None:
        """Take a site's work back; a hospital begins anew, with the newest weights."""
        reason = self._session.away(site) or f"no answer within {time.monotonic() - flight.asked_at:.0f} s"
        let_go(self._session, site)
        self._refuse(site, reason)
        if self._session.hospitals is not None:
            self._ask_again(site, overdue=flight.overdue + 1)

    def _ask_again(self, site: str, *, overdue: int = 0) -> None:
        """Ask a site with this round's weights, for another attempt if it was asked with them before."""
        mend_base(self._session, self._number, self._state)
        asked = site in (self._item.asked or ()) or site in self._item.attempts
        attempt = self._item.plan_for(site).attempt + asked
        self._session.record("asked_again", round=self._number, site=site, attempt=attempt)
        self._send(site, self._item.plan_for(site), overdue=overdue)

    def _send(self, site: str, plan: RoundPlan, *, overdue: int = 0) -> None:
        flight = Flight(plan, send(self._session, plan, site), time.monotonic(), overdue)
        flight.answer.add_done_callback(flight.note_arrival)
        self._session.flights[site] = flight

    def _wait_for_quorum(self) -> None:
        """Say whom the round waits for, and ask again those who could not.

        Raises:
            QuorumError: If these are a simulation's sites, which do not come back.
        """
        session, item = self._session, self._item
        reasons = {site: item.refused.get(site, "") for site in item.plan.roster if site not in item.received}
        if session.hospitals is None:
            raise QuorumError(
                f"round {self._number} has {item.lacking}. {reasons_text(reasons)}. "
                "Mend the sites and run the same command: what arrived is kept; or lower rounds.buffer in the study"
            )
        reasons |= {site: session.at_work(flight.plan, site) for site, flight in session.flights.items()}
        say_whom(session, self._number, item.lacking, reasons)
        for site in reasons:
            if site not in session.flights and site in session.sites and self._retries.is_due(site):
                self._ask_again(site)

    def _end(self) -> None:
        """Say how it ended for those who did not deliver."""
        for site, end in self._ends.items():
            if end.done():
                continue
            if site in self._session.flights:
                end.set_result(None)
            else:
                reason = self._item.refused.get(site, "not asked")
                end.set_exception(SiteError(reason, site=site, round_number=self._number, stage="train"))
                end.exception()  # that nobody follows is no complaint of asyncio's


def drop_old_work(session: Session, number: int) -> None:
    """Take back, before a round is planned, work that began from weights older than the study allows."""
    most = session.study.rounds.max_staleness
    if most is not None:
        old = {site: plan for site, plan in session.ledger.in_flight.items() if number - plan.round > most}
        _drop(session, number, old, f"it began more than {most} versions ago")


def drop_all_work(session: Session) -> None:
    """Take back what is still worked on when the training has ended."""
    number = max(session.ledger.rounds, default=0)
    _drop(session, number, dict(session.ledger.in_flight), "the training has ended")


def let_go(session: Session, site: str) -> None:
    """Have a site stop what it was asked, and wait for it no more."""
    flight = session.flights.pop(site, None)
    if flight is None:
        return
    flight.answer.cancel()
    if session.hospitals is not None:
        session.hospitals.withdraw(training_order(flight.plan, site))


def _drop(session: Session, number: int, plans: Mapping[str, RoundPlan], reason: str) -> None:
    """Record that work is not waited for any more, and take it back."""
    for site, plan in sorted(plans.items()):
        session.record("late_dropped", round=number, site=site, of=plan.round, reason=reason)
        let_go(session, site)
