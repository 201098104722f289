"""Run an analysis on this machine: open the sites' tables, run the flow, record what it found, close everything."""

from __future__ import annotations

import asyncio
import math
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from components.analytics.analysis import Results
from components.analytics.desk import SiteDesk
from components.analytics.plan import AnalysisStudy
from components.analytics.report import analysis_report
from components.analytics.sources import plan_tables
from components.analytics.tables import Table, csv_text, tables_of
from components.files import storage_errors, write_whole
from flows import home as homes
from flows.analysis_figures import figures_of
from flows.early import EarlyStart
from flows.embedded_mlflow import seed_mlflow
from flows.prefect_errors import prefect_errors
from flows.recorder import local_uri, tracking_uri
from flows.servers import check_reachable
from flows.signals import Interruptible, run_stoppable
from flows.version import code_version


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
    tell: Callable[[str], None] = lambda step: None,
) -> AnalysisOutcome:
    """Analyse a study's tables.

    Args:
        study: What to analyse.
        study_folder: Where the study's relative paths start.
        early: What was started before; its Prefect server.
        home: Folder of everything recorded.
        tell: Is told each step as it is taken.

    Raises:
        WardRoundError: With one message for the user. What sites remember of the questions is kept.
    """
    recorded = homes.open_home(home)
    check_reachable(tracking_uri(recorded), name="MLflow")
    analysis = f"{study.study}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    with Interruptible(), ExitStack() as stack:
        places = plan_tables(study, study_folder, recorded)
        desks = {place.site: stack.enter_context(SiteDesk(study, place)) for place in places}
        tell("waiting for the Prefect server")
        os.environ.update(early.prefect)
        early.wait_for_prefect()
        with prefect_errors(early.prefect["PREFECT_API_URL"], recorded):
            found = _run_flow(study, analysis, desks, early, tell)
        tell("drawing and recording")
        return _record(found, analysis, recorded)


def _run_flow(
    study: AnalysisStudy, analysis: str, desks: dict[str, SiteDesk], early: EarlyStart, tell: Callable[[str], None]
) -> Results:
    """Run the flow with this process's settings of Prefect."""
    from flows.analysis_flow import OpenAnalysis, federated_analysis, use  # Prefect, once its settings are known
    from flows.prefect_settings import settings_for

    stop = asyncio.Event()

    async def run() -> Results:
        with settings_for(early.prefect), use(OpenAnalysis(study, analysis, desks, tell, stop)):
            return await federated_analysis(study=study.study, analysis=analysis)

    return run_stoppable(run, stop)


def _record(found: Results, analysis: str, home: Path) -> AnalysisOutcome:
    """Write report, tables and figures into the home, and all of them into one MLflow run."""
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
    folder = home / "analyses" / found.study.study / analysis
    with storage_errors("write", folder):
        for name, content in files.items():
            write_whole(folder / name, content)
    return AnalysisOutcome(analysis, found, tables, folder, _log(found, analysis, home, files))


def _log(found: Results, analysis: str, home: Path, files: dict[str, bytes]) -> str:
    """Write one MLflow run; return its identifier."""
    from components.tracking import tags as names  # MLflow takes seconds to import
    from components.tracking.runs import Tracker

    uri = tracking_uri(home)
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
