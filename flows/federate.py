"""Run a training at the hospitals of a federation: the same flows as a simulation, with orders that travel."""

from __future__ import annotations

import os
import secrets
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from components.data.agreement import Found, is_open, settled
from components.dispatch import Preparation, SiteSetting
from components.errors import StudyError
from components.journal import Journal
from components.ledger import trainings, unfinished
from components.site_source import SiteSource, SourcePart
from components.study import Study
from flows import home as homes
from flows.abandoned import preparing, take_back_abandoned, unpublish_leftovers
from flows.coordinator import OWN_NAME, CoordinatorSide, open_side, read_coordinator
from flows.dispatch import PoolDispatcher
from flows.early import EarlyStart, spawn_site_process
from flows.progress import Watcher
from flows.readiness import require_quorum
from flows.recorder import open_recorder
from flows.run import Opening, Parts, TrainingOutcome, import_flows, train_with
from flows.servers import check_reachable, prefect_environment
from flows.signals import Interruptible
from flows.taking_part import without_data_text
from flows.tenure import Tenure


def run_federated(
    study: Study, *, folder: Path, home: Path | None = None, fresh: bool = False, watcher: Watcher | None = None
) -> TrainingOutcome:
    """Run, or resume, a study's training at the hospitals.

    Args:
        study: What to train. Where it names its sites, those must be enrolled; virtual sites are a simulation's,
            and here every enrolled hospital takes part.
        folder: The coordinator's folder.
        home: Folder of everything recorded.
        fresh: Start anew even if a training of the same study was not finished.
        watcher: Is told what happens.

    Raises:
        LeaseLostError: If another process has taken the study over, since this one was not heard of.
        WardRoundError: With one message; what was recorded is kept and the same call continues.
    """
    _require_federated(study)
    watcher, home = watcher or Watcher(), homes.open_home(home)
    with Interruptible() as interrupted, ExitStack() as stack:
        journal = stack.enter_context(Journal.open(home / "trainings" / study.study / "journal.jsonl"))
        watcher.phase("asking the hospitals")
        config, side = read_coordinator(folder), open_side(folder)
        tenure = Tenure.begin(
            side.leases, f"study {study.study}", journal.path, say=watcher.waiting, check=interrupted.check
        )
        stack.callback(tenure.close)
        tenure.require_own()
        side = replace(side, tenure=tenure)
        url = config.prefect_url
        check_reachable(url, name="Prefect")
        prefect = prefect_environment(url, None, user=os.environ)
        local = PoolDispatcher({OWN_NAME: _builder(study, folder, side)}, spawn_site_process(2), {OWN_NAME: 1})
        stack.callback(local.close)
        if is_open(study):
            import_flows(prefect)
            study = _settled_by_all(study, side, local, watcher, interrupted, require_ready=config.require_ready)
        recorder = stack.enter_context(open_recorder(study, home, config))
        import_flows(prefect)
        from flows.membership import Membership  # Prefect, once its settings are known
        from flows.remote import RemoteDispatcher
        from flows.site_runs import SiteRuns

        interrupted.check()
        before = trainings(journal.entries)
        resumed = None if fresh else unfinished(before, study.digest)
        take_back_abandoned(side, study.study, before, resumed.training if resumed else None)
        unpublish_leftovers(side, study.study)
        dispatcher = RemoteDispatcher(study, side, f"{preparing(study.study)}{secrets.token_hex(8)}", local, SiteRuns())
        stack.callback(dispatcher.close)
        hospitals = Membership(study, side, dispatcher, require_ready=config.require_ready)
        initial = None if study.data.records else dispatcher.initialise(study)
        at_work = {site: resumed.preparations[site] for site in resumed.in_flight} if resumed else {}
        found = hospitals.gather(watcher, interrupted.check, at_work=at_work)
        if hospitals.without_data:
            watcher.note(without_data_text(study.study, hospitals.without_data))
        parts = Parts(
            study, home, home / "trainings" / study.study, side.store(study.study).root, journal, dispatcher, recorder,
            watcher, hospitals, tenure,
        )  # fmt: skip
        prepared = {name: _done(preparation) for name, preparation in found.items()}
        opening = Opening(initial, prepared, None, without_data=hospitals.without_data)
        return train_with(parts, opening, EarlyStart(prefect, lambda: None, None), fresh=fresh)


def _settled_by_all(
    study: Study,
    side: CoordinatorSide,
    local: PoolDispatcher,
    watcher: Watcher,
    interrupted: Interruptible,
    *,
    require_ready: bool,
) -> Study:
    """Ask every hospital what its table says of what the study leaves open; return the study in which all is said."""
    from flows.membership import Membership  # Prefect, once its settings are known
    from flows.remote import RemoteDispatcher
    from flows.site_runs import SiteRuns

    interrupted.check()
    dispatcher = RemoteDispatcher(study, side, f"{preparing(study.study)}{secrets.token_hex(8)}", local, SiteRuns())
    try:
        found = Membership(study, side, dispatcher, require_ready=require_ready).gather(watcher, interrupted.check)
    finally:
        dispatcher.end()
    require_quorum(study, found)
    return settled(study, {site: Found(told.columns, told.categories) for site, told in found.items() if told.ready})


def _done(preparation: Preparation) -> Future[Preparation]:
    """Return a future that has its result."""
    future: Future[Preparation] = Future()
    future.set_result(preparation)
    return future


def _require_federated(study: Study) -> None:
    """Refuse what would need the data in one place."""
    if study.evaluate.compare:
        raise StudyError(
            f"evaluate.compare is {study.evaluate.compare}, which needs all data in one place: give an empty list, "
            "or --set evaluate.compare=[]",
            field="evaluate.compare",
        )


def _builder(study: Study, folder: Path, side: CoordinatorSide) -> SiteSetting:
    """Return the setting of the process that builds and exports the network here; its data is never opened."""
    part = SourcePart(site=OWN_NAME, kind="folder", path=str(folder / "none"))
    source = SiteSource(name=OWN_NAME, parts=[part])
    return SiteSetting(
        study=study, source=source, state=str(folder / "builder"), store=str(side.store(study.study).root)
    )
