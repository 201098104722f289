"""The command for analyses of patients over hospitals: ``analyse``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as Grid

from flows import home as homes
from flows.options import Home, StudyFile, examples

if TYPE_CHECKING:
    from flows.analytics import AnalysisOutcome

SUMMARY = ("survival", "rmst", "logrank", "cox", "meta_analysis")  # tables that are printed
WORDS = 14  # letters of a name that stay on one line of a narrow terminal


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=examples("wardround analyse studies/trial.yaml"))(analyse)


def analyse(
    study: StudyFile,
    seed: Annotated[int | None, typer.Option(help="Seed of the division over virtual sites.", metavar="N")] = None,
    home: Home = None,
) -> None:
    """Analyse patients over hospitals: survival, regression, effects; only sums and counts leave a site.

    The study's section analysis says what is analysed and what may leave a site.
    """
    from components.yaml_lines import read_yaml
    from flows.early import early_start

    read_yaml(study)  # a file that is not there is told before anything is started
    console, folder = Console(highlight=False), homes.open_home(home)
    with early_start(folder, "in-process") as early:
        from components.study_file import load_analysis
        from flows.analytics import run_analysis

        loaded = load_analysis(study, {"seed": seed})
        with console.status("starting") as status:
            outcome = run_analysis(
                loaded,
                study_folder=study.resolve().parent,
                early=early,
                home=folder,
                tell=lambda step: status.update(step),
            )
    print_analysis(console, outcome)


def print_analysis(console: Console, outcome: AnalysisOutcome) -> None:
    """Print what an analysis found, in short, and where the whole of it is."""
    from components.analytics.report import cell_text, control_text

    found = outcome.found
    sites = f"[bold]{escape(outcome.analysis)}[/bold]: {len(found.sites)} sites"
    console.print(f"{sites}. {escape(control_text(found))}", soft_wrap=True)
    for table in outcome.tables:
        if table.name not in SUMMARY:
            continue
        grid = Grid(title=escape(table.title), title_justify="left", title_style="bold", header_style="dim", box=None)
        rows = [[cell_text(cell) for cell in row] for row in table.rows]
        for place, name in enumerate(table.header):
            numbers = all(not isinstance(row[place], str) for row in table.rows)
            widest = max((len(row[place]) for row in rows), default=0)
            least = widest if numbers else min(widest, WORDS)
            grid.add_column(escape(name), justify="right" if numbers else "left", min_width=least)
        for row in rows:
            grid.add_row(*map(escape, row))
        console.print()
        # A number is never cut: where the terminal is too narrow for the numbers, its lines break.
        needed = Measurement.get(console, console.options.update(width=1000), grid).minimum
        console.print(grid, width=max(console.width, needed), crop=False)
    console.print()
    for note in found.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    for method, reasons in found.left_out.items():
        for site, reason in reasons.items():
            console.print(f"{escape(method)}: without {escape(site)}: {escape(reason)}", soft_wrap=True)
    console.print(f"Report: {escape(homes.as_typed(outcome.report))}", soft_wrap=True)
