"""The federated training, driven: rounds until the global model has converged, then its judgement.

It needs an open `flows.session.Session`; `flows.run` opens one. Nothing here waits for Prefect: `flows.training`
and `flows.round` show what is done. A training goes on while Prefect is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from components.comparison import Contest, compare_models
from components.dispatch import InitialModel
from components.errors import QuorumError, WardRoundError
from components.external import Rotation, leave_one_site_out
from components.long_sums import put_back
from components.rounds import ServerState
from components.sums_file import write_sums
from flows.buffering import drop_all_work
from flows.cancellation import cancellation
from flows.driven_round import DrivenRound, commit, open_round
from flows.evaluating import evaluate_everywhere
from flows.first_weights import make_first_weights
from flows.readiness import lacking_sites
from flows.session import InterruptedTrainingError, Session
from flows.steps import Steps

if TYPE_CHECKING:
    from components.tracking.runs import RunStatus

log = logging.getLogger("wardround.coordinator")
END = 0  # stands, instead of a round's number, for what is done after the last one
REGISTERED_WITHIN_S = 60.0  # at a cancellation; `flows.cancellation.DRIVER_WITHIN_S` is longer
UNREGISTERED = 8  # rounds whose versions may still be under way: beyond, the next round waits for the registry


class Driver:
    """Drives one training to its end.

    Args:
        session: The training.

    Attributes:
        opened: What is opened, as it is opened: numbers of rounds, `END`, and None when all is over.
        steps: What is done in each, until somebody has shown it.
        unshown: What Prefect could not show, and why.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.opened: asyncio.Queue[int | None] = asyncio.Queue()
        self.steps: dict[int, Steps] = {}
        self.unshown: list[str] = []
        self._driven: asyncio.Task[dict[str, Any]] | None = None
        self._ended = False
        self._registering: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, unless it has begun. What the sites do in this process is shown under the flow that calls this."""
        if self._driven is None:
            self._driven = asyncio.create_task(self._drive())

    def start_recording(self, flow_run: str) -> None:
        """Let MLflow record, unless it does: what it imports takes seconds that no site waits for.

        Args:
            flow_run: Prefect's run of the training; empty if there is none.
        """
        if not self._ended:
            self.session.recorder.start(self.session, flow_run)
            self.session.recording.set()

    async def outcome(self) -> dict[str, Any]:
        """Wait for the end; it goes on where nobody waits.

        Returns:
            Why it ended, the best round, its version, and where the champion stands.

        Raises:
            QuorumError: If a round had too few updates. What arrived is kept; the same call continues.
            InterruptedTrainingError: If the operator stopped the training.
        """
        self.start()
        assert self._driven is not None
        return await asyncio.shield(self._driven)

    async def _drive(self) -> dict[str, Any]:
        session = self.session
        try:
            await self._rounds()
            drop_all_work(session)
            await asyncio.gather(*self._registering)
            return await self._finish()
        except Exception as error:
            if session.tenure is not None and session.tenure.lost:
                await self._step_aside()
            await self._end_early(error)
            raise
        finally:
            self.opened.put_nowait(None)

    async def _step_aside(self) -> None:
        """Leave the training to the process that drives it now, as it is: nothing more is written.

        Raises:
            LeaseLostError: Always.
        """
        self._ended = True
        self.session.stop.set()
        self.session.recorder.leave()
        await asyncio.gather(*self._registering, return_exceptions=True)
        self.session.require_lead()

    async def _end_early(self, error: Exception) -> None:
        """Record that a training was stopped, was cancelled or failed."""
        session = self.session
        status: RunStatus = "FAILED"
        if isinstance(error, InterruptedTrainingError):
            status, why = "KILLED", cancellation(session.folder)
            if why is not None:
                await self._register_what_was_judged()
                session.record("cancelled", reason="cancelled", why=why)
            else:
                session.record("interrupted", reason=str(error))
        await asyncio.gather(*self._registering, return_exceptions=True)
        self._end_recording(status, str(error) if status == "KILLED" else "")

    async def _register_what_was_judged(self) -> None:
        """Register the versions of rounds that are decided, of a training that nobody takes up again.

        Not for ever: whoever cancelled it waits. What the registry does not take in that time has no version.
        """
        session = self.session
        await asyncio.gather(*self._registering, return_exceptions=True)  # they were stopped, and end at once
        numbers = [
            number
            for number, item in sorted(session.ledger.rounds.items())
            if item.evaluation is not None and item.version is None
        ]
        if not numbers:
            return
        session.watcher.phase(f"registering rounds {numbers[0]} to {numbers[-1]}, and ending")
        self.start_recording("")
        try:
            async with asyncio.timeout(REGISTERED_WITHIN_S):
                for number in numbers:
                    await commit(session, number, await asyncio.wrap_future(session.recorder.register(session, number)))
        except Exception as error:  # it is cancelled all the same
            log.warning("not every round that was done has a version: %s", str(error) or "the registry took too long")

    def _end_recording(self, status: RunStatus, reason: str = "") -> None:
        """End what MLflow records; it is not begun any more."""
        self._ended = True
        self.session.recorder.finish(status, reason)

    async def _rounds(self) -> None:
        """Run rounds until convergence or the last one; each one's end runs beside the next."""
        session = self.session
        state: ServerState | None = None
        before: DrivenRound | None = None
        number = next_number(session, 0)
        while number is not None:
            await _gather_sites(session, number)
            opened = self._take_up(number, state, before)
            driven = asyncio.create_task(opened.drive(session))
            self._registering.append(driven)
            either: set[asyncio.Future[Any]] = {opened.decided, driven}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not opened.decided.done():
                await driven  # it failed or was stopped, and this raises
            state = opened.state
            before = opened if session.asynchronous else None
            await self._let_the_registry_follow()
            number = next_number(session, number)

    def _take_up(self, number: int, state: ServerState | None, before: DrivenRound | None) -> DrivenRound:
        """Open a round; `state` spares reading the state it works on."""
        session = self.session
        item = session.ledger.rounds.get(number)
        reached = number if item is not None and item.state is not None else number - 1
        if state is None or state.round != reached:
            state = session.state_after(reached)
        opened = open_round(session, state, number, before)
        self._show(number, opened.steps)
        return opened

    def _show(self, number: int, steps: Steps) -> None:
        """Have steps shown by whoever shows them."""
        self.steps[number] = steps
        self.opened.put_nowait(number)

    async def _let_the_registry_follow(self) -> None:
        """Wait while too many versions are under way; raise what a registration failed with."""
        while True:
            for done in [task for task in self._registering if task.done()]:
                self._registering.remove(done)
                done.result()
            if len(self._registering) <= UNREGISTERED:
                return
            await self.session.wait_any(*self._registering)

    async def _finish(self) -> dict[str, Any]:
        """Test the best round, compare it, move the aliases, report."""
        session, progress = self.session, self.session.progress()
        if not progress.best_round:
            raise QuorumError(
                f"{session.metric} was not defined in any round: are there items of each class in the validation split?"
            )
        number, kinds = progress.best_round, session.study.evaluate.compare
        rotates = session.study.evaluate.external == "leave_one_site_out" and session.ledger.external is None
        test, compare, report = f"test round {number} at every site", f"compare with {' and '.join(kinds)}", "report"
        rotate = "leave one site out"
        steps = Steps([
            [test] if session.ledger.tested is None else [],
            [compare] if kinds and session.ledger.compared is None else [],
            [rotate] if rotates else [],
            [report],
        ])  # fmt: skip
        self._show(END, steps)
        session.watcher.testing(number)
        try:
            if session.ledger.tested is None:
                await steps.do(test, _test(session, number))
            if kinds and session.ledger.compared is None:
                session.watcher.comparing(kinds)
                await steps.do(compare, _compare(session))
            if rotates:
                session.watcher.phase("training once without each site")
                await steps.do(rotate, _leave_one_site_out(session))
            outcome = await steps.do(report, _report(session))
        except Exception as error:
            steps.end(error)
            raise
        steps.end()
        reason = "converged" if progress.converged else "all rounds done"
        best = {"reason": reason, "best_round": number, "value": progress.best_value, **outcome}
        session.record("training_finished", **best)
        return best


def next_number(session: Session, after: int) -> int | None:
    """Return the first round after a number that is not committed; None if the training ends before it.

    What is aggregated is brought to its end, also where it turned out meanwhile that the training had converged before.
    """
    for number in range(after + 1, session.study.rounds.max + 1):
        item = session.ledger.rounds.get(number)
        if item is not None and item.version is not None:
            continue
        if item is not None and item.state is not None:
            return number
        return None if session.progress_until(number - 1).converged else number
    return None


_driver: ContextVar[Driver] = ContextVar("wardround_driver")


def current_driver() -> Driver:
    """Return what drives the training that the running flow shows.

    Raises:
        WardRoundError: If the flow was started by itself.
    """
    try:
        return _driver.get()
    except LookupError:
        raise WardRoundError(
            "this flow runs inside a training: start it with 'wardround simulate', or with flows.api.simulate"
        ) from None


@contextmanager
def use(driver: Driver) -> Iterator[Driver]:
    """Make a driver the current one."""
    token = _driver.set(driver)
    try:
        yield driver
    finally:
        _driver.reset(token)


async def _gather_sites(session: Session, number: int) -> None:
    """Take in who came and who went; where too few are there for a round that is not planned, wait for them.

    Raises:
        QuorumError: If too few are there, and nobody comes back.
    """
    session.follow_membership()
    while number not in session.ledger.rounds and (lacking := lacking_sites(session)):
        if session.hospitals is None:
            raise QuorumError(f"round {number} cannot begin: {lacking}")
        session.waits_for(number, f"waiting for quorum: {lacking}")
        await session.wait_any(timeout_s=1.0)
        session.follow_membership()
    session.waits_for(number, "")


async def _test(session: Session, number: int) -> dict[str, float]:
    """Judge the best round once on the test items of every site."""
    evaluation, _ = await evaluate_everywhere(session, number, "test")
    digest = session.keep_evaluation("test", evaluation)
    metrics = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    session.record("tested", round=number, evaluation=digest, metrics=metrics)
    return metrics


async def _compare(session: Session) -> None:
    """Train what the global model is compared with, and test it on the same items."""
    kinds = session.study.evaluate.compare
    contest = Contest(
        study=session.study,
        training=session.training,
        sites=session.sites,
        initial=session.ledger.initial,
        dispatcher=session,
        store=session.store,
    )
    compared = await session.wait(asyncio.to_thread(compare_models, contest, kinds))
    digest = write_sums(session.folder / "compared.json", compared)
    session.record("compared", kinds=" and ".join(kinds), evaluation=digest)


async def _leave_one_site_out(session: Session) -> None:
    """Train once without each site, and judge that model there."""
    study = session.study

    def initial(sites: Sequence[str]) -> InitialModel:
        return make_first_weights(
            study,
            {site: put_back(session.folder, session.ledger.preparations[site]) for site in sites},
            initialise=session.dispatcher.initialise,
            dispatcher=session,
            exchange=session.store.root,
            say=session.watcher.phase,
            check=session.require_lead,
        ).model

    items = {site: session.ledger.preparations[site].items for site in session.sites}
    rotation = Rotation(
        study=study,
        strategy=session.strategy,
        training=session.training,
        items={site: found.usable for site, found in items.items() if found is not None},
        initial=initial,
        dispatcher=session,
        store=session.store,
    )
    sums = await session.wait(asyncio.to_thread(leave_one_site_out, rotation))
    digest = write_sums(session.folder / "external.json", {"left_out": sums})
    session.record("externally_tested", evaluation=digest)


async def _report(session: Session) -> dict[str, Any]:
    """Write figures and report, move the aliases, end the MLflow runs."""
    await session.wait(session.recording.wait())
    return await asyncio.wrap_future(session.recorder.conclude(session))
