"""Run a training at the hospitals of a federation: the same flows as a simulation, with orders that travel."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from pathlib import Path

from components.dispatch import SiteSetting
from components.errors import QuorumError, StudyError
from components.journal import Journal
from components.site_source import SiteSource, SourcePart
from components.study import Study, VirtualSites
from flows import home as homes
from flows.coordinator import CoordinatorSide, open_side, read_coordinator
from flows.dispatch import PoolDispatcher
from flows.early import EarlyStart, spawn_site_process
from flows.progress import Watcher
from flows.recorder import open_recorder
from flows.run import Opening, Parts, TrainingOutcome, import_flows, train_with
from flows.servers import check_reachable, prefect_environment
from flows.signals import Interruptible

COORDINATOR = "coordinator"  # name of the process that builds the network here; it has no data


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
        WardRoundError: With one message; what was recorded is kept and the same call continues.
    """
    _require_federated(study)
    watcher, home = watcher or Watcher(), homes.open_home(home)
    with Interruptible() as interrupted, ExitStack() as stack:
        journal = stack.enter_context(Journal.open(home / "trainings" / study.study / "journal.jsonl"))
        watcher.phase("asking the hospitals")
        url, side = read_coordinator(folder).prefect_url, open_side(folder)
        names = roster_of(study, side)
        check_reachable(url, name="Prefect")
        prefect = prefect_environment(url, None, user=os.environ)
        local = PoolDispatcher({COORDINATOR: _builder(study, folder, side)}, spawn_site_process(2), {COORDINATOR: 1})
        stack.callback(local.close)
        recorder = stack.enter_context(open_recorder(study, home))
        import_flows(prefect)
        from flows.remote import RemoteDispatcher  # Prefect, once its settings are known
        from flows.site_runs import SiteRuns

        interrupted.check()
        dispatcher = RemoteDispatcher(study, side, f"prepare-{secrets.token_hex(8)}", local, SiteRuns())
        stack.callback(dispatcher.close)
        store = side.store(study.study).root
        parts = Parts(study, home, home / "trainings" / study.study, store, journal, dispatcher, recorder, watcher)
        opening = Opening(dispatcher.initialise(study), {name: dispatcher.prepare(name) for name in names}, None)
        return train_with(parts, opening, EarlyStart(prefect, lambda: None, None), fresh=fresh)


def roster_of(study: Study, side: CoordinatorSide) -> list[str]:
    """Return the hospitals that a study is trained at, in the order of their names.

    Raises:
        QuorumError: If a site the study names is not enrolled, or none is.
    """
    enrolled = sorted(site.name for site in side.sites.list() if site.active)
    wanted = enrolled if isinstance(study.sites, VirtualSites) else sorted(site.name for site in study.sites)
    missing = [name for name in wanted if name not in enrolled]
    if missing or not wanted:
        who = f"{', '.join(missing)} not enrolled" if missing else "no hospital is enrolled"
        raise QuorumError(f"{who}: invite each with  wardround coordinator invite NAME")
    return wanted


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
    part = SourcePart(site=COORDINATOR, kind="folder", path=str(folder / "none"))
    source = SiteSource(name=COORDINATOR, parts=[part])
    return SiteSetting(
        study=study, source=source, state=str(folder / "builder"), store=str(side.store(study.study).root)
    )
