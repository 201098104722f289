"""Run a training on this machine: open everything it needs, run the flow, close everything again.

The slow parts of the start overlap: the Prefect server and the site processes start as children while
this process imports, and the sites open their data while the server comes up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.assemble import assemble
from components.data.absent import absent_data
from components.data.agreement import found_at, is_open, settled
from components.data.sources import plan_sources, pooled_source
from components.dispatch import Dispatcher, InitialModel, Preparation, SiteSetting
from components.errors import DataError, LeaseLostError, WardRoundError
from components.journal import Journal
from components.ledger import TrainingLedger, started, trainings, unfinished
from components.long_sums import put_aside, put_back, short_study
from components.rounds import POOLED
from components.site_source import SiteSource
from components.study import Study
from flows import home as homes
from flows.dispatch import open_dispatcher
from flows.early import EarlyStart, early_start
from flows.first_weights import FirstWeights, make_first_weights, number_of_components
from flows.prefect_errors import prefect_errors
from flows.progress import Watcher
from flows.readiness import require_metric, require_quorum
from flows.recorder import Recorder, open_recorder
from flows.results import External, Results, external_results, test_results
from flows.showing import end_showing
from flows.signals import Interruptible, run_stoppable
from flows.taking_up import require_own_words, require_same_start, resumed_text
from flows.version import code_version

if TYPE_CHECKING:
    from flows.driver import Driver
    from flows.session import Hospitals, Session
    from flows.tenure import Tenure

T = TypeVar("T")
log = logging.getLogger("wardround.coordinator")


@dataclass(frozen=True)
class RunOptions:
    """How a training is run on this machine.

    Attributes:
        home: Folder of everything recorded; None is ``WARDROUND_HOME``, or ``.wardround`` here.
        dispatcher: ``auto``, ``in-process`` or ``processes:N``.
        fresh: Start anew even if a training of the same study was not finished.
        early: What a command has started for it before it imported this module.
    """

    home: Path | None = None
    dispatcher: str = "auto"
    fresh: bool = False
    early: EarlyStart | None = None


@dataclass(frozen=True)
class TrainingOutcome:
    """How a training ended.

    Attributes:
        study: The study.
        training: Identifier of the training.
        result: What the flow returned: reason, best round, its version, the champion.
        tests: Test metrics by site (and `flows.results.ALL_SITES`), then model, then metric.
        external: Metrics by the site left out (and `flows.results.ALL_SITES`); empty if none was.
    """

    study: Study
    training: str
    result: dict[str, Any]
    tests: Results
    external: External = field(default_factory=dict)


def run_training(
    study: Study, *, study_folder: Path, options: RunOptions = RunOptions(), watcher: Watcher | None = None
) -> TrainingOutcome:
    """Run, or resume, the training of a study.

    Args:
        study: What to train.
        study_folder: Where the study's relative paths start.
        options: Where things are recorded, and how sites are run.
        watcher: Is told what happens.

    Returns:
        How it ended.

    Raises:
        WardRoundError: With one message for the user; what was recorded until then is kept, and the same
            call continues from it.
    """
    watcher = watcher or Watcher()
    home = homes.open_home(options.home)
    with Interruptible() as interrupted, ExitStack() as stack:
        folder = home / "trainings" / study.study
        journal = stack.enter_context(Journal.open(folder / "journal.jsonl"))
        watcher.phase("starting the Prefect server and the sites")
        early = options.early or stack.enter_context(early_start(home, options.dispatcher))
        sources = plan_sources(study, study_folder)
        if is_open(study):
            study = settled(study, {source.name: found_at(study, source) for source in sources})
        settings = site_settings(study, sources, home)
        sizes = {name: source_size(setting.source) for name, setting in settings.items()}
        dispatcher = open_dispatcher(options.dispatcher, settings, sizes, early.sites)
        stack.callback(dispatcher.close)

        recorder = stack.enter_context(open_recorder(study, home))
        parts = Parts(study, home, folder, home / "exchange" / study.study, journal, dispatcher, recorder, watcher)
        opening = replace(Opening.ask(dispatcher, study, sources), absent=absent_data(study, study_folder))
        import_flows(early.prefect)
        interrupted.check()
        return train_with(parts, opening, early, fresh=options.fresh)


def train_with(parts: Parts, opening: Opening, early: EarlyStart, *, fresh: bool) -> TrainingOutcome:
    """Run or resume a training with everything open: the same for sites here and at hospitals.

    Raises:
        WardRoundError: As `run_training`.
    """
    ledger = _open_ledger(parts, opening, fresh=fresh)
    with prefect_errors(early.prefect["PREFECT_API_URL"], parts.home):
        return _run_flow(parts, ledger, early)


@dataclass(frozen=True)
class Parts:
    """What is open while a training runs.

    Attributes:
        study: The study.
        home: Folder of everything recorded.
        folder: Of the study's trainings.
        exchange: Root of the exchange.
        journal: The journal of the study's trainings.
        dispatcher: How orders reach the sites.
        recorder: What writes MLflow.
        watcher: Is told what happens.
        hospitals: What is known of sites that live on their own; None in a simulation.
        tenure: The lease with which the study is driven; None in a simulation.
    """

    study: Study
    home: Path
    folder: Path
    exchange: Path
    journal: Journal
    dispatcher: Dispatcher
    recorder: Recorder
    watcher: Watcher
    hospitals: Hospitals | None = None
    tenure: Tenure | None = None

    def require_lead(self) -> None:
        """Return if this process may drive the study.

        Raises:
            LeaseLostError: If another does.
        """
        if self.tenure is not None:
            self.tenure.require()


def site_settings(study: Study, sources: Sequence[SiteSource], home: Path) -> dict[str, SiteSetting]:
    """Return what each site's process must know; with the pooled site, if the study compares with it."""
    chosen = list(sources)
    if "pooled" in study.evaluate.compare:
        chosen.append(pooled_source(sources, POOLED))
    sites, store = home / "sites" / study.study, home / "exchange" / study.study
    return {
        source.name: SiteSetting(study=study, source=source, state=str(sites / source.name), store=str(store))
        for source in chosen
    }


def source_size(source: SiteSource) -> int:
    """Return about how many items a source has, without reading them: for sharing out the work."""
    parts = source.parts
    return sum(
        len(part.rows) if part.rows is not None else sum(1 for _ in Path(part.path).rglob("*")) for part in parts
    )


@dataclass(frozen=True)
class Opening:
    """What the sites were asked before the first round.

    Attributes:
        initial: The first weights; None of a table, where they depend on what the sites found.
        preparations: What each site found.
        pooled: What the pooled site found, if the study compares with it.
        absent: In a simulation, what of the sites' data is not on this machine, in words.
        without_data: Hospitals that have no data for the study and take no part.
    """

    initial: Future[InitialModel] | None
    preparations: dict[str, Future[Preparation]]
    pooled: Future[Preparation] | None
    absent: str = ""
    without_data: Sequence[str] = ()

    @classmethod
    def ask(cls, dispatcher: Dispatcher, study: Study, sources: Sequence[SiteSource]) -> Opening:
        """Have the first weights made and every site open its data."""
        preparations = {source.name: dispatcher.prepare(source.name) for source in sources}
        pooled = dispatcher.prepare(POOLED) if "pooled" in study.evaluate.compare else None
        return cls(None if study.data.records else dispatcher.initialise(study), preparations, pooled)


def import_flows(prefect: Mapping[str, str]) -> None:
    """Import the flows, while the sites open their data; Prefect reads its settings when it is imported."""
    os.environ.update(prefect)
    import flows.training  # noqa: F401


def _open_ledger(parts: Parts, opening: Opening, *, fresh: bool) -> TrainingLedger:
    """Wait for the sites; then start a training in the journal, or take one up again."""
    study = parts.study
    preparations = {site: future.result() for site, future in opening.preparations.items()}
    require_quorum(study, preparations, opening.absent)
    require_metric(study, preparations)
    if opening.pooled is not None and not opening.pooled.result().ready:
        raise DataError(f"the pooled items cannot be used: {opening.pooled.result().reason}")
    ledger = None if fresh else unfinished(trainings(parts.journal.entries), study.digest)
    first = _first_weights(parts, opening, preparations, ledger)
    also = {"without_data": [*opening.without_data]} if opening.without_data else {}
    if ledger is not None:
        require_same_start(ledger, preparations, first.model, hospitals=parts.hospitals is not None)
        parts.watcher.note(resumed_text(study, ledger))
        parts.journal.append("training_resumed", training=ledger.training, code_version=code_version(), **also)
        return ledger
    if not fresh:
        require_own_words(study, list(trainings(parts.journal.entries).values()))
    return _begin(parts, preparations, first, also)


def _begin(
    parts: Parts, preparations: Mapping[str, Preparation], first: FirstWeights, also: Mapping[str, Sequence[str]]
) -> TrainingLedger:
    """Start a training in the journal."""
    study = parts.study
    training = f"{study.study}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    kept = {site: put_aside(parts.folder / training, found) for site, found in sorted(preparations.items())}
    what = {
        "training": training,
        "study_digest": study.digest,
        "study": short_study(parts.folder / training, study),
        "initial": first.model.model_dump(mode="json"),
        "preparations": {site: found.model_dump(mode="json") for site, found in kept.items()},
        **({"components": first.components.model_dump(mode="json")} if first.components is not None else {}),
    }
    parts.journal.append("training_started", **what, code_version=code_version(), **also)
    return started({**what, "code_version": code_version()})


def _first_weights(
    parts: Parts, opening: Opening, preparations: Mapping[str, Preparation], ledger: TrainingLedger | None
) -> FirstWeights:
    """Return the weights a training starts, or has started, with."""
    if ledger is not None and number_of_components(parts.study):
        return FirstWeights(ledger.initial)  # not every site need be there to tell its products again
    if opening.initial is not None:
        return FirstWeights(opening.initial.result())
    if ledger is not None:
        folder, began = parts.folder / ledger.training, ledger.first_preparations
        preparations = {site: put_back(folder, found) for site, found in began.items()}
    return make_first_weights(
        parts.study,
        preparations,
        initialise=parts.dispatcher.initialise,
        dispatcher=parts.dispatcher,
        exchange=parts.exchange,
        say=parts.watcher.phase,
        check=parts.require_lead,
    )


def _run_flow(parts: Parts, ledger: TrainingLedger, early: EarlyStart) -> TrainingOutcome:
    """Drive the training in an event loop of its own, also where one is running already (a notebook).

    Prefect follows. Sites with processes of their own get their orders before it answers, and whether it does or
    not; in this process they are Prefect runs themselves and have to wait for it.
    """
    from components.exchange.store import FolderStore
    from flows.cancellation import watch_for_cancellation
    from flows.driver import Driver, use
    from flows.prefect_settings import settings_for
    from flows.session import InterruptedTrainingError, Session
    from flows.training import federated_training

    store = FolderStore(parts.exchange)
    strategy = assemble(parts.study).strategy
    folder = parts.folder / ledger.training
    folder.mkdir(parents=True, exist_ok=True)
    session = Session(
        study=parts.study,
        strategy=strategy,
        ledger=ledger,
        folder=folder,
        store=store,
        journal=parts.journal,
        dispatcher=parts.dispatcher,
        recorder=parts.recorder,
        watcher=parts.watcher,
        hospitals=parts.hospitals,
        tenure=parts.tenure,
        others={name: item for name, item in trainings(parts.journal.entries).items() if name != ledger.training},
    )
    ahead = early.sites is not None or parts.hospitals is not None

    async def show(driver: Driver) -> None:
        with settings_for(early.prefect), use(driver):
            await federated_training(study=parts.study.study, training=ledger.training, return_state=True)

    async def run() -> dict[str, Any]:
        watching = asyncio.create_task(watch_for_cancellation(folder, session.stop))
        driver = Driver(session)
        if parts.tenure is not None:
            parts.tenure.tell(partial(_stop_soon, asyncio.get_running_loop(), session))
        if ahead:
            driver.start()
        try:
            await asyncio.to_thread(early.wait_for_prefect)
        except Exception:
            session.stop.set()  # without Prefect no training is begun
            with suppress(WardRoundError):
                await driver.outcome()
            raise
        showing = asyncio.create_task(show(driver))
        if ahead:
            showing.add_done_callback(partial(_go_on_unshown, driver))
        else:
            await showing
        try:
            outcome = await driver.outcome()
        except (InterruptedTrainingError, LeaseLostError):
            parts.dispatcher.close()  # the loop's end waits for threads that wait for sites
            raise
        finally:
            watching.cancel()
            await end_showing(showing, lambda: len(driver.steps), driver.unshown)
        if driver.unshown:
            log.warning("Prefect does not show all of %s, which is whole: %s", ledger.training, driver.unshown[0])
        return outcome

    result = run_stoppable(run, session.stop)
    tests = test_results(parts.study, ledger, folder)
    return TrainingOutcome(parts.study, ledger.training, result, tests, external_results(parts.study, ledger, folder))


def _stop_soon(loop: asyncio.AbstractEventLoop, session: Session) -> None:
    """Stop a training from another thread, unless it has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(session.stop.set)


def _go_on_unshown(driver: Driver, showing: asyncio.Task[None]) -> None:
    """Have a training that Prefect does not show any more recorded all the same."""
    if not showing.cancelled() and showing.exception() is not None:
        driver.start_recording("")
