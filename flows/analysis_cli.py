"""The command for analyses of patients over hospitals: ``analyse``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.status import Status
from rich.table import Table as Grid
from rich.text import Text

from components.errors import StorageError
from flows import home as homes
from flows.health import COORDINATOR_FILE
from flows.options import FederationFolder, Home, StudyFile, examples
from flows.progress import Watcher

if TYPE_CHECKING:
    from components.analytics.analysis import Results
    from components.analytics.tables import Table
    from flows.analytics import AnalysisOutcome
    from flows.early import EarlyStart

SUMMARY = ("survival", "rmst", "logrank", "cox", "meta_analysis")  # tables that are printed
FreshAnalysis = Annotated[bool, typer.Option("--fresh", help="Begin anew instead of resuming an unfinished analysis.")]
WORDS = 14  # letters of a name that stay on one line of a narrow terminal
LONGEST = 19  # letters of a word that is not broken there
SHORT = {"coefficient": "log hazard ratio", "p of proportionality": "p of prop. hazards"}  # headings for 80 columns


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=examples("wardround analyse studies/trial.yaml"))(analyse)


class StatusWatcher(Watcher):
    """Shows the step of an analysis, and leaves a line for whom it waits."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console, self._status = console, status

    def phase(self, text: str) -> None:
        """See `Watcher`."""
        self._status.update(escape(text))

    def note(self, text: str) -> None:
        """See `Watcher`; it leaves a line."""
        self._console.print(Text(text), soft_wrap=True)

    def waiting(self, text: str) -> None:
        """See `Watcher`; what is waited for leaves a line, for those who look later."""
        if text:
            self._console.print(Text(text, style="yellow"), soft_wrap=True)
            self._status.update(escape(text))


def analyse(
    study: StudyFile,
    fresh: FreshAnalysis = False,
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """Analyse patients at the hospitals of the federation: only sums and counts leave a hospital.

    The study's section analysis says what is analysed and what may leave. Ctrl-C stops cleanly; the same command
    resumes. On this machine, with hospitals as folders: wardround simulate STUDY.
    """
    from components.study_file import load_analysis
    from flows.analysis_federation import analyse_federated

    loaded, console, recorded = load_analysis(study), Console(highlight=False), homes.open_home(home)
    chosen = folder or recorded / "federation"
    if not (chosen / COORDINATOR_FILE).exists():
        raise StorageError(
            f"there is no federation in {chosen}: wardround up {study} starts one on this machine; "
            f"wardround simulate {study} analyses without one"
        )
    with console.status("starting") as status:
        outcome = analyse_federated(
            loaded,
            folder=chosen,
            home=recorded,
            fresh=fresh,
            watcher=StatusWatcher(console, status),
        )
    print_analysis(console, outcome)


def simulate_analysis(
    study: Path, overrides: Mapping[str, Any], *, folder: Path, fresh: bool, early: EarlyStart
) -> None:
    """Analyse on this machine, and print what was found; see `flows.analytics.run_analysis`."""
    from components.study_file import load_analysis
    from flows.analytics import run_analysis

    loaded, console = load_analysis(study, overrides), Console(highlight=False)
    with console.status("starting") as status:
        outcome = run_analysis(
            loaded,
            study_folder=study.resolve().parent,
            early=early,
            home=folder,
            fresh=fresh,
            watcher=StatusWatcher(console, status),
        )
    print_analysis(console, outcome)


def print_analysis(console: Console, outcome: AnalysisOutcome) -> None:
    """Print what an analysis found, in short, and where the whole of it is."""
    from components.analytics.report import control_text

    found = outcome.found
    sites = f"[bold]{escape(outcome.analysis)}[/bold]: {len(found.sites)} sites"
    console.print(f"{sites}. {escape(control_text(found))}", soft_wrap=True)
    for table in outcome.tables:
        if table.name not in SUMMARY:
            continue
        console.print()
        print_table(console, table)
    console.print()
    for note in found.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    for site, reason, methods in _left_out(found):
        console.print(f"{escape(', '.join(methods))}: without {escape(site)}: {escape(reason)}", soft_wrap=True)
    console.print(f"Report: {escape(homes.as_typed(outcome.report))}", soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table; where a terminal is too narrow, headings break between words, and no number and no word is cut."""
    grid, wide = _grid(table), console.options.update(width=1000)
    if Measurement.get(console, wide, grid).maximum > console.width:
        for column in grid.columns:
            column.width = column.min_width if column.justify == "right" else None
    needed = Measurement.get(console, wide, grid).minimum
    console.print(grid, width=max(console.width, needed), crop=False)


def _grid(table: Table) -> Grid:
    """Lay out a table, each column at least as wide as its numbers and its longest word."""
    from components.analytics.wording import numeric_columns, shown_rows

    grid = Grid(
        title=escape(table.title), title_justify="left", title_style="bold", header_style="dim", box=None,
        pad_edge=False,
    )  # fmt: skip
    rows = shown_rows(table)
    for place, (name, numbers) in enumerate(zip(table.header, numeric_columns(table), strict=True)):
        heading, cells = SHORT.get(name, name), [row[place] for row in rows]
        words = [word for text in [heading, *([] if numbers else cells)] for word in text.split()]
        least = max(map(len, words + (cells if numbers else [])), default=0)
        if not numbers:
            least = max(min(max(map(len, cells), default=0), WORDS), min(least, LONGEST))
        grid.add_column(escape(heading), justify="right" if numbers else "left", min_width=least, overflow="fold")
    for row in rows:
        grid.add_row(*map(escape, row))
    return grid


def _left_out(found: Results) -> list[tuple[str, str, list[str]]]:
    """Return each site and reason with the methods that it takes no part in: one line for one refusal."""
    lines: dict[tuple[str, str], list[str]] = {}
    for method, reasons in found.left_out.items():
        for site, reason in reasons.items():
            lines.setdefault((site, reason), []).append(method)
    return [(site, reason, methods) for (site, reason), methods in lines.items()]
