"""A version evaluated at the sites: who is asked, how long an answer is waited for, and what is pooled.

In a synchronous training every site evaluates every version. In an asynchronous one a site does so when it is free,
before it trains from that very version; of a site at work the sums it gave last count, those of the version that it
began from. A site that never evaluated does so before its first training, so that each version is judged on the items
of all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from components.checks import verify_answer
from components.errors import QuorumError, SiteError, WardRoundError
from components.federation import (
    Evaluation,
    base_evaluation_order,
    check_evaluation,
    evaluation_order,
    pool,
    pool_sums,
)
from components.rounds import Answer, Order, RoundPlan, ScoreSums, Split
from flows.collecting import LOOK_EVERY_S, look_at
from flows.readiness import reasons_text
from flows.session import InterruptedTrainingError, Session

EVALUATE_AGAIN_S = 10.0


@dataclass(frozen=True)
class Question:
    """One site, asked to evaluate some weights.

    Attributes:
        order: What it was asked.
        version: The round whose weights these are; 0 for the first weights.
        answer: What it answers.
        asked: When it was asked, on the monotonic clock.
    """

    order: Order
    version: int
    answer: asyncio.Future[Answer]
    asked: float


@dataclass(frozen=True)
class Judgement:
    """A version as an asynchronous training judges it.

    Attributes:
        evaluation: Of all sites.
        took_s: How many seconds each site took that evaluated this version.
        before: The other sites, by the version that their sums are of.
    """

    evaluation: Evaluation
    took_s: dict[str, float]
    before: dict[str, int]


async def evaluate_everywhere(session: Session, number: int, split: Split) -> tuple[Evaluation, dict[str, float]]:
    """Evaluate a round's weights at every ready site and pool the sums.

    Returns:
        The evaluation, and how many seconds each site took.

    Raises:
        QuorumError: If no site could evaluate, and nobody comes back who could.
    """
    while True:
        answers, took_s, reasons = await _hear_all(session, number, _ask_all(session, number, session.sites, split))
        if answers:
            session.waits_for(number, "")
            return await asyncio.to_thread(pool, session.study, answers), took_s
        await _wait_for_a_site(session, number, reasons)


def ask_the_free(session: Session, number: int) -> dict[str, Question]:
    """Ask the sites that are not at work to evaluate a round's weights; where all are, each after its work.

    What newcomers were asked when they began is heard together with it.
    """
    free = [site for site in session.sites if site not in session.ledger.in_flight] or session.sites
    looks, session.looks = session.looks, {}
    session.judges.update(free)
    return looks | _ask_all(session, number, free, "validation")


def ask_newcomer(session: Session, plan: RoundPlan, site: str) -> None:
    """Ask a site that has not evaluated yet for the weights that it begins from."""
    if site not in session.judges:
        session.judges.add(site)
        session.looks[site] = _ask(session, base_evaluation_order(plan, site), plan.round - 1)


async def judge(session: Session, number: int, asked: Mapping[str, Question]) -> Judgement:
    """Hear the sites that were asked, and add what is known of those at work.

    Args:
        session: The training; the round before is judged.
        number: The round whose version it is.
        asked: As of `ask_the_free`.

    Raises:
        QuorumError: If no site could evaluate the version, and nobody comes back who could.
    """
    while True:
        answers, took_s, reasons = await _hear_all(session, number, asked)
        sums = {site: (asked[site].version, answer.sums) for site, answer in answers.items()}
        fresh = {site for site, (version, _) in sums.items() if version == number}
        if fresh:
            break
        await _wait_for_a_site(session, number, reasons)
        asked = ask_the_free(session, number)
    session.waits_for(number, "")
    known = _known(session, number)
    newest = {site: found for site, found in _newest(known, sums).items() if site in session.sites}
    evaluation = await asyncio.to_thread(pool_sums, session.study, {site: newest[site][1] for site in sorted(newest)})
    before = {site: version for site, (version, _) in sorted(newest.items()) if version < number}
    return Judgement(evaluation, {site: took_s[site] for site in sorted(fresh)}, before)


def _known(session: Session, number: int) -> dict[str, tuple[int, ScoreSums]]:
    """Return each site's sums of the round before, and the version that they are of."""
    item = session.ledger.rounds.get(number - 1)
    if item is None:
        return {}
    sums = session.evaluation(number - 1).by_site
    return {site: (item.judged_before.get(site, number - 1), found) for site, found in sums.items()}


def _newest(
    known: Mapping[str, tuple[int, ScoreSums]], heard: Mapping[str, tuple[int, ScoreSums | None]]
) -> dict[str, tuple[int, ScoreSums]]:
    """Return, by site, the sums of the newest version it has evaluated."""
    newest = dict(known)
    for site, (version, sums) in heard.items():
        if sums is not None and (site not in newest or version >= newest[site][0]):
            newest[site] = version, sums
    return newest


def _ask(session: Session, order: Order, version: int) -> Question:
    answer = asyncio.wrap_future(session.dispatcher.submit(order))
    answer.add_done_callback(look_at)  # of a site that evaluates the next version already, nobody hears it
    return Question(order, version, answer, time.monotonic())


def _ask_all(session: Session, number: int, sites: list[str], split: Split) -> dict[str, Question]:
    """Ask sites to evaluate the weights a round ended with."""
    item = session.ledger.rounds[number]
    weights = item.require_state().weights
    return {site: _ask(session, evaluation_order(item.plan, site, weights, split), number) for site in sites}


async def _hear_all(
    session: Session, number: int, asked: Mapping[str, Question]
) -> tuple[dict[str, Answer], dict[str, float], dict[str, str]]:
    """Return the answers, how long they took, and why others have none."""
    answers: dict[str, Answer] = {}
    took_s: dict[str, float] = {}
    reasons: dict[str, str] = {}

    async def hear(site: str) -> None:
        answers[site] = await _hear(session, number, asked[site])
        took_s[site] = time.monotonic() - asked[site].asked

    for site, outcome in zip(asked, await asyncio.gather(*map(hear, asked), return_exceptions=True), strict=True):
        if isinstance(outcome, WardRoundError) and not isinstance(outcome, InterruptedTrainingError):
            reasons[site] = str(outcome)
            split = asked[site].order.split
            session.record("evaluation_refused", round=number, site=site, split=split, reason=str(outcome))
        elif outcome is not None:
            raise outcome
    return answers, took_s, reasons


async def _hear(session: Session, number: int, question: Question) -> Answer:
    """Wait for one site's answer, and check what it says."""
    order, answer = question.order, question.answer
    site = order.site
    due = question.asked + session.evaluation_deadline_s(site, order.plan.deadline_s)
    while not answer.done():
        left_s = due - time.monotonic()
        if left_s <= 0 or session.away(site):
            if session.hospitals is not None:
                session.hospitals.withdraw(order)
            answer.cancel()
            reason = session.away(site) or "no answer in time"
            raise SiteError(reason, site=site, round_number=number, stage="evaluate")
        await session.wait_any(answer, timeout_s=min(left_s, LOOK_EVERY_S))
    found = answer.result()
    verify_answer(found, order)
    if found.sums is not None:
        items = session.ledger.preparations[site].items
        check_evaluation(session.study, found.sums, items.usable if items else None)
    return found


async def _wait_for_a_site(session: Session, number: int, reasons: Mapping[str, str]) -> None:
    """Say that nobody could evaluate, and wait a while before asking again.

    Raises:
        QuorumError: If nobody comes back.
    """
    if session.hospitals is None:
        raise QuorumError(f"no site could evaluate round {number}. {reasons_text(reasons)}")
    session.waits_for(number, f"waiting for a site that can evaluate: {reasons_text(reasons)}")
    await session.wait_any(timeout_s=EVALUATE_AGAIN_S)
