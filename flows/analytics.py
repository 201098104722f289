"""Run an analysis on this machine: open the sites' tables, run the flow, record what it found, close everything.

What follows once the sites can be asked is the same at hospitals (`flows.analysis_federation`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.analytics.analysis import Results
from components.analytics.desk import SiteDesk
from components.analytics.plan import AnalysisStudy
from components.analytics.report import analysis_report
from components.analytics.sources import plan_tables
from components.analytics.tables import Table, csv_text, tables_of
from components.files import storage_errors, write_whole
from flows import home as homes
from flows.analysis_driver import AnalysisDriver, Desks, use
from flows.analysis_figures import figures_of
from flows.analysis_session import AnalysisSession, begin_analysis, open_journal
from flows.cancellation import watch_for_cancellation
from flows.early import EarlyStart
from flows.embedded_mlflow import seed_mlflow
from flows.prefect_errors import prefect_errors
from flows.progress import Watcher
from flows.recorder import local_uri, tracking_uri
from flows.servers import check_reachable
from flows.showing import end_showing
from flows.signals import Interruptible, run_stoppable
from flows.version import code_version

if TYPE_CHECKING:
    from flows.analysis_driver import Sites

log = logging.getLogger("wardround")


@dataclass(frozen=True)
class AnalysisOutcome:
    """How an analysis ended.

    Attributes:
        analysis: Its identifier.
        found: What it found.
        tables: The same as tables.
        folder: Where report, tables and figures lie.
        run_id: Its run in MLflow.
    """

    analysis: str
    found: Results
    tables: list[Table]
    folder: Path
    run_id: str

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.folder / "report.html"


def run_analysis(
    study: AnalysisStudy,
    *,
    study_folder: Path,
    early: EarlyStart,
    home: Path | None = None,
    fresh: bool = False,
    watcher: Watcher | None = None,
) -> AnalysisOutcome:
    """Analyse a study's tables on this machine, or take up the analysis of them that has not finished.

    Args:
        study: What to analyse.
        study_folder: Where the study's relative paths start.
        early: What was started before; its Prefect server.
        home: Folder of everything recorded.
        fresh: Begin anew in any case.
        watcher: Is told what happens.

    Raises:
        WardRoundError: With one message for the user. What was answered is kept, and so is what sites remember.
    """
    recorded, watcher = homes.open_home(home), watcher or Watcher()
    check_reachable(tracking_uri(recorded), name="MLflow")
    with Interruptible(), ExitStack() as stack:
        journal = stack.enter_context(open_journal(recorded, study.study))
        places = plan_tables(study, study_folder, recorded)
        desks = {place.site: stack.enter_context(SiteDesk(study, place)) for place in places}
        ledger = begin_analysis(study, list(desks), journal, fresh=fresh)
        watcher.phase("waiting for the Prefect server")
        os.environ.update(early.prefect)
        early.wait_for_prefect()
        session = AnalysisSession(study, ledger, journal, watcher=watcher)
        return carry_out(session, Desks(desks), early.prefect, recorded)


def carry_out(
    session: AnalysisSession, sites: Sites, prefect: Mapping[str, str], home: Path, *, mlflow: str = ""
) -> AnalysisOutcome:
    """Run an analysis with everything open, and record what it finds: the same for sites here and at hospitals.

    Args:
        session: Whom it asks, and what was answered.
        sites: How it reaches them.
        prefect: The environment variables that name the Prefect server and how it is used.
        home: Folder of everything recorded.
        mlflow: Where MLflow is, if not where the home records.

    Raises:
        WardRoundError: As `run_analysis`.
    """
    session.say_resumed()
    with prefect_errors(prefect["PREFECT_API_URL"], home):
        found = _run_flow(session, sites, prefect)
    session.watcher.phase("drawing and recording")
    session.require_lead()
    outcome = _record(found, session, home, os.environ.get("MLFLOW_TRACKING_URI") or mlflow or tracking_uri(home))
    session.finish(outcome.run_id, outcome.report)
    return outcome


def _run_flow(session: AnalysisSession, sites: Sites, prefect: Mapping[str, str]) -> Results:
    """Drive the analysis in an event loop of its own; Prefect follows, with this process's settings of it."""
    from flows.analysis_flow import federated_analysis  # Prefect, once its settings are known
    from flows.prefect_settings import settings_for

    async def show(driver: AnalysisDriver) -> None:
        with settings_for(prefect), use(driver):
            await federated_analysis(study=session.study.study, analysis=session.analysis, return_state=True)

    async def run() -> Results:
        driver = AnalysisDriver(session, sites)
        watching = asyncio.create_task(watch_for_cancellation(session.folder, session.stop))
        showing = asyncio.create_task(show(driver))
        try:
            return await driver.outcome()
        finally:
            watching.cancel()
            await end_showing(showing, lambda: len(driver.asked), driver.unshown)
            if driver.unshown:
                log.warning("Prefect does not show all of %s, which is whole: %s", session.analysis, driver.unshown[0])

    return run_stoppable(run, session.stop)


def _record(found: Results, session: AnalysisSession, home: Path, uri: str) -> AnalysisOutcome:
    """Write report, tables and figures into the home, and all of them into one MLflow run."""
    analysis, folder = session.analysis, session.folder
    tables, figures = tables_of(found), figures_of(found)
    report = analysis_report(
        found,
        tables,
        list(figures.values()),
        analysis=analysis,
        code_version=code_version(),
    )
    files = {"report.html": report.encode()}
    files |= {f"tables/{table.name}.csv": csv_text(table).encode() for table in tables}
    files |= {f"figures/{name}.png": png for name, (_, _, png) in figures.items()}
    with storage_errors("write", folder):
        for name, content in files.items():
            write_whole(folder / name, content)
    return AnalysisOutcome(analysis, found, tables, folder, _log(found, analysis, home, files, uri))


def _log(found: Results, analysis: str, home: Path, files: dict[str, bytes], uri: str) -> str:
    """Write one MLflow run, or what is missing of it; return its identifier."""
    from components.tracking import tags as names  # MLflow takes seconds to import
    from components.tracking.runs import Tracker

    if uri == local_uri(home):
        seed_mlflow(home)
    root = None if uri.startswith("http") else home / "artifacts"
    tracker = Tracker(uri, experiment=found.study.study, artifact_root=root)
    plan = found.study.analysis
    tracker.start_training(
        analysis,
        study=found.study,
        params={
            "methods": ", ".join(plan.methods),
            "sites": ", ".join(found.sites),
            "smallest_cell": plan.disclosure.smallest_cell,
            "rounding": plan.disclosure.rounding,
            "ties": plan.cox.ties,
            "stratify": plan.cox.stratify,
        },
        tags={"wardround.code_version": code_version(), names.NOTE: f"Federated analysis of {found.study.study}."},
        role="analysis",
    )
    tracker.log_round(0, metrics_of(found))
    for name, content in files.items():
        tracker.log_bytes(name, content)
    tracker.finish("FINISHED", "")
    return tracker.run_id


def metrics_of(found: Results) -> dict[str, float]:
    """Return the numbers by which analyses are compared in MLflow."""
    numbers = {"patients": float(sum(exits.patients for exits in found.exits))} if found.exits else {}
    if found.cox is not None:
        for label, effect in found.cox.effects().items():
            numbers[f"cox/{_name(label)}/hazard_ratio"] = math.exp(effect.value)
            numbers[f"cox/{_name(label)}/p"] = effect.p
    for name, test in found.logrank.items():
        numbers[f"logrank/{_name(name)}/p"] = test.p
    for arm, mean in zip(found.study.analysis.arm.levels, found.means, strict=False):
        numbers[f"rmst/{_name(arm)}"] = mean.mean
    for label, combined in found.combined.items():
        numbers[f"meta_analysis/{_name(label)}/hazard_ratio"] = math.exp(combined.random.value)
        numbers[f"meta_analysis/{_name(label)}/i_squared"] = combined.inconsistency
    return numbers


def _name(label: str) -> str:
    """Write a label as a part of a metric's name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_")
