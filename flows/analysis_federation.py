"""Run an analysis at the hospitals of a federation: the same flow as on this machine, with questions that travel."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from components.analytics.ledger import analyses
from components.analytics.plan import AnalysisStudy
from components.errors import ServiceError
from flows import home as homes
from flows.abandoned import take_back
from flows.analysis_session import AnalysisSession, begin_analysis, open_journal
from flows.analytics import AnalysisOutcome, carry_out
from flows.coordinator import CoordinatorSide, open_side, read_coordinator
from flows.progress import Watcher
from flows.servers import check_reachable, prefect_environment
from flows.signals import Interruptible
from flows.tenure import Tenure

log = logging.getLogger("wardround.coordinator")


def analyse_federated(
    study: AnalysisStudy, *, folder: Path, home: Path | None = None, fresh: bool = False, watcher: Watcher | None = None
) -> AnalysisOutcome:
    """Analyse the tables of hospitals, or take up the analysis of them that has not finished.

    Args:
        study: What to analyse. Where it names its sites, those must be enrolled; virtual sites are a simulation's, and
            here every enrolled hospital is asked.
        folder: The coordinator's folder.
        home: Folder of everything recorded.
        fresh: Begin anew in any case.
        watcher: Is told what happens.

    Raises:
        LeaseLostError: If another process has taken the study over, since this one was not heard of.
        WardRoundError: With one message; what was answered is kept and the same call continues.
    """
    watcher, home = watcher or Watcher(), homes.open_home(home)
    config, side = read_coordinator(folder), open_side(folder)
    with Interruptible() as interrupted, ExitStack() as stack:
        journal = stack.enter_context(open_journal(home, study.study))
        tenure = Tenure.begin(
            side.leases, f"analysis {study.study}", journal.path, say=watcher.waiting, check=interrupted.check
        )
        stack.callback(tenure.close)
        tenure.require_own()
        side = replace(side, tenure=tenure)
        check_reachable(config.prefect_url, name="Prefect")
        prefect = prefect_environment(config.prefect_url, None, user=os.environ)
        os.environ.update(prefect)
        from flows.analysis_sites import AnalysisRoll, Hospitals  # Prefect, once its settings are known
        from flows.site_runs import SiteRuns

        interrupted.check()
        roll = AnalysisRoll(study.sites, side, require_ready=config.require_ready)
        ledger = begin_analysis(study, roll.roster(), journal, fresh=fresh)
        known = analyses(journal.entries)
        _take_back(side, known)
        stack.callback(_take_back, side, [ledger.analysis])
        session = AnalysisSession(study, ledger, journal, watcher=watcher, tenure=tenure)
        hospitals = Hospitals(
            session, side, roll, SiteRuns(patient=True)
        )  # it asks more in a second than Prefect shows
        stack.callback(hospitals.close)
        tenure.tell(session.stop.set)
        return carry_out(session, hospitals, prefect, home, mlflow=config.mlflow_url)


def _take_back(side: CoordinatorSide, known: Collection[str]) -> None:
    """Ask nothing more for analyses that nobody drives, and drop what was delivered: it is asked again, for free."""
    if side.tenure is not None and side.tenure.lost:
        return
    try:
        for name in sorted({*side.grants.open_trainings()} & {*known}):
            take_back(side, name)
        for name in known if not side.keep_sealed else ():
            side.sealed.discard_training(name)
    except ServiceError as error:
        log.warning("what was asked for is taken back by the next start: %s", error)
