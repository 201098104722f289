"""The command by which a hospital looks at what a study makes of its records: ``records``."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from components.errors import DataError
from flows.options import StudyFile, examples
from flows.output import require_apart, write_output

if TYPE_CHECKING:
    from components.data.listing import Row
    from components.data.patients import ReadPatients
    from components.study import Study


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog=examples(
            "wardround records study.yaml /data/fhir", "wardround records study.yaml /data/omop -o patients.csv"
        )
    )(records)


def records(
    study: StudyFile,
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="The hospital's folder of records, or its table.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the patients' rows to this CSV file.")
    ] = None,
) -> None:
    """Look, at a hospital, at what a study makes of its records (FHIR, OMOP or a table).

    Nothing leaves the machine. What is printed are counts; the file has a row for each patient.
    """
    from components.data.labels import unit_of
    from components.data.patients import read_patients
    from components.errors import StudyError
    from components.study_file import load_study

    if output is not None:
        require_apart(output, [study, path])
    loaded, console = load_study(study), Console(highlight=False)
    if loaded.data.records is None:
        raise StudyError(f"{study}: data.source is {loaded.data.source}; the command is for data.source: records")
    try:
        read = read_patients(path, loaded.data, str(path), unit=unit_of(loaded.task))
        checked = _encoded(read, loaded, str(path))
    except DataError as error:
        raise DataError("; ".join([str(error), *getattr(error, "__notes__", ())])) from None
    _print(console, read, checked, loaded)
    if output is not None:
        write_output(output, _as_csv(read, loaded))
        console.print(f"{len(read.rows)} rows in {escape(str(output))}", soft_wrap=True)


def _encoded(read: ReadPatients, study: Study, owner: str) -> list[str]:
    """Return why each row cannot be used; empty where it can."""
    from components.data.records import encode_table

    assert study.data.records is not None
    found = encode_table(read.rows, study.data.records, owner)
    return [row.fault or (item if isinstance(item, str) else "") for row, item in zip(read.rows, found, strict=True)]


def _print(console: Console, read: ReadPatients, checked: list[str], study: Study) -> None:
    """Print counts."""
    from components.data.terminology import DEATH, PERIOD

    usable = checked.count("")
    console.print(f"{read.format}: {read.patients} patients, {len(read.rows)} of them in the study, {usable} usable")
    grid = Grid(title="records", title_justify="left")
    grid.add_column("what")
    grid.add_column("how many", justify="right")
    for name, count in read.found.items():
        grid.add_row(f"of {name}" if name in (DEATH, PERIOD) else f"with a code of {escape(name)}", str(count))
    for remark in read.remarks:
        number, _, reason = remark.reason.partition(" x ")
        grid.add_row(f"{escape(remark.file)}: {escape(reason)}", number)
    for what, count in _outcomes([row for row, why in zip(read.rows, checked, strict=True) if not why], study):
        grid.add_row(f"rows: {escape(what)}", str(count))
    for reason in sorted({*checked} - {""}):
        grid.add_row(f"rows: {escape(reason)}", str(checked.count(reason)))
    if grid.row_count:
        console.print(grid)


def _outcomes(rows: Sequence[Row], study: Study) -> list[tuple[str, int]]:
    """Count the usable rows of each outcome, and of each arm."""
    from components.data.labels import parse_label, stratum_of
    from components.data.quarantine import UnusableItemError

    classes, arms = Counter[str](), Counter[str]()
    arm = study.data.records.arm if study.data.records else None
    for row in rows:
        try:
            classes[study.task.classes[int(stratum_of(parse_label(row.label, study.task), study.task))]] += 1
        except UnusableItemError as error:
            classes[error.reason] += 1
        if arm is not None:
            arms[f"arm {row.extras[arm.column]}"] += 1
    return [*sorted(classes.items()), *sorted(arms.items())]


def _as_csv(read: ReadPatients, study: Study) -> str:
    """Return the rows as a plain table that the same study, `wardround predict`, or an analysis reads."""
    from components.data.labels import Observation

    records, named = study.data.records, study.data.columns
    assert records is not None
    columns = [*(feature.column_name for feature in records.features), *([records.arm.column] if records.arm else [])]
    outcome = [named["time"], named["event"]] if study.task.survival else [named.get("label", "label")]
    patient = named.get("patient") or "patient"
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([patient, *columns, *outcome])
    for row in read.rows:
        if not row.fault:
            told = [row.label.time, row.label.event] if isinstance(row.label, Observation) else [row.label]
            writer.writerow([row.patient, *(row.extras.get(column, "") for column in columns), *told])
    return text.getvalue()
