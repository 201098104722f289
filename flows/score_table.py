"""What ``wardround predict`` prints, and what it writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.digits import interval_text, number_text
from components.evaluation.benefit import BENEFIT
from flows.output import write_output
from flows.prediction import FileScore, Scored

_COLUMNS = 3  # classes that have a column of their own on a terminal; more would not fit
_ROWS = 40  # scores on a terminal
_WIDE = 100  # characters from which either arm's expected outcome has a column, too


def print_scores(console: Console, scored: Scored, output: Path | None) -> None:
    """Print the first scores as a table, or write all of them to a CSV file."""
    if scored.warning:
        console.print(f"[yellow]{escape(scored.warning)}[/yellow]")
    if output is not None:
        write_output(output, _as_csv(scored))
        console.print(f"{len(scored.files)} scores of {scored.version} in {escape(str(output))}", soft_wrap=True)
        return
    shown = scored.files[:_ROWS]
    header, rows = _benefits(scored, shown, console.width) if scored.arm else _scores(shown)
    table = Table(title=f"{scored.version}: research use only, not a diagnosis", title_justify="left")
    table.add_column("file", overflow="fold")
    for name in header[:-1]:
        table.add_column(escape(name), justify="right")
    table.add_column(escape(header[-1]))
    for name, row in zip(_names(scored.files), rows, strict=False):
        table.add_row(*map(escape, [name, *row]))
    console.print(table)
    if len(scored.files) > _ROWS:
        console.print(f"... and {len(scored.files) - _ROWS} more: --output FILE writes all", soft_wrap=True)


def _names(files: Sequence[FileScore]) -> list[str]:
    """Return what files are called: without their folder, where that tells them apart."""
    names = [item.file.name for item in files]
    return names if len(set(names)) == len(names) else [str(item.file) for item in files]


def _scores(files: Sequence[FileScore]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of scores by class."""
    names = list(files[0].scores) if files else []
    if len(names) > _COLUMNS:
        return ["highest scores", "decision"], [[_highest(item.scores), item.decision] for item in files]
    rows = [[*(f"{item.scores[name]:.4f}" for name in names), item.decision] for item in files]
    return [*(f"score {name}" for name in names), "decision"], rows


def _benefits(scored: Scored, files: Sequence[FileScore], width: int) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of recommendations: the outcome in either arm, the benefit, the arm."""
    expected = [name for name in files[0].scores if name not in BENEFIT] if files and width >= _WIDE else []
    digits = 4 if all(abs(value) <= 1 for item in files for value in item.scores.values()) else 1
    rows = []
    for item in files:
        benefit, low, high = (item.scores[name] for name in BENEFIT)
        told = f"{number_text(benefit, digits)} [{interval_text(low, high, digits)}]"
        outcomes = [number_text(item.scores[name], digits) for name in expected]
        rows.append([*outcomes, told, f"{item.decision}{' (interval includes 0)' if low <= 0 <= high else ''}"])
    return [*expected, f"benefit of {scored.benefit} [95 % interval]", f"recommended {scored.arm}"], rows


def _highest(scores: Mapping[str, float]) -> str:
    """Return the three highest scores with their classes."""
    first = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:3]
    return ", ".join(f"{name} {score:.4f}" for name, score in first)


def _as_csv(scored: Scored) -> str:
    """Return every digit of every score."""
    names = list(scored.files[0].scores) if scored.files else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *(f"score_{name}" for name in names), "decision", "model"])
    for item in scored.files:
        writer.writerow([item.file, *(item.scores[name] for name in names), item.decision, scored.version])
    return text.getvalue()
