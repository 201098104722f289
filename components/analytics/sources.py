"""Where each site's table is: in the roster's folders, or cut from one of lifelines' tables into virtual hospitals."""

from __future__ import annotations

import csv
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.analytics.desk import SiteTable
from components.analytics.plan import CUT, AnalysisStudy
from components.data.bundled import lifelines_is_absent
from components.data.partition import Divisible, partition, partition_by_column
from components.errors import DataError
from components.files import storage_errors, write_whole
from components.study import VirtualSites


def plan_tables(study: AnalysisStudy, study_folder: Path, home: Path) -> list[SiteTable]:
    """Say where the sites' tables are; write those of virtual hospitals, each into a folder of its own.

    Args:
        study: The study.
        study_folder: Where its relative paths start.
        home: Folder of everything recorded; what a site remembers lies in ``analytics``, for all studies together.

    Returns:
        One place for each site, in the order of their names. The same study gives the same tables.

    Raises:
        DataError: If the table to cut is not there, or cannot be cut as asked.
        StorageError: If a folder cannot be written.
    """
    if isinstance(study.sites, VirtualSites):
        return _cut(study, study.sites, home)
    file = study.analysis.table.file
    return [
        SiteTable(site.name, (study_folder / site.path).resolve() / file, home / "analytics" / site.name)
        for site in sorted(study.sites, key=lambda site: site.name)
    ]


def absent_tables(study: AnalysisStudy, study_folder: Path) -> str:
    """Say what of a study's tables is not on this machine; empty if all is there. As `components.data.absent`."""
    if isinstance(study.sites, VirtualSites):
        return "" if find_spec("lifelines") else lifelines_is_absent(study.analysis.table.source)
    file = study.analysis.table.file
    absent = [site for site in study.sites if not (study_folder / site.path / file).is_file()]
    named = ", ".join(f"{site.path}/{file} ({site.name})" for site in absent)
    return f"{named}: not beside the study ({study_folder.resolve()})" if absent else ""


def lifelines_table(name: str) -> tuple[list[str], list[list[str]]]:
    """Return a table of lifelines' as names of columns and rows of text.

    Raises:
        DataError: If lifelines is not installed.
    """
    try:
        from lifelines import datasets  # an extra: only these example studies need it
    except ModuleNotFoundError:
        raise DataError(lifelines_is_absent(name)) from None
    frame: Any = {"GBSG2": datasets.load_gbsg2, "lung": datasets.load_lung}[name]()
    rows = [["" if value != value else _plain(value) for value in row] for row in frame.itertuples(index=False)]
    return [str(column) for column in frame.columns], rows


def _plain(value: Any) -> str:
    """Write 3.0 as 3."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _cut(study: AnalysisStudy, sites: VirtualSites, home: Path) -> list[SiteTable]:
    """Divide one table over virtual hospitals, arms alike."""
    names, rows = lifelines_table(study.analysis.table.source)
    kind, _, argument = sites.partition.partition(":")
    patients = [str(number) for number in range(len(rows))]
    if kind == "column":
        if argument not in names:
            raise DataError(f"the table has no column {argument} to cut it by; it has {', '.join(names)}")
        divided = partition_by_column([row[names.index(argument)] for row in rows], patients)
    else:
        arm = study.analysis.arm.column
        classes = [row[names.index(arm)] for row in rows] if arm in names else [""] * len(rows)
        found = partition(Divisible(patients, classes, [""] * len(rows)), sites.partition, sites.count, seed=study.seed)
        width = len(str(len(found)))
        divided = {f"site-{number:0{width}d}": indexes for number, indexes in enumerate(found, 1)}
    places = []
    for site, indexes in divided.items():
        folder = home / "sites" / study.study / site
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows[index] for index in indexes)
        with storage_errors("write", folder):
            write_whole(folder / CUT, text.getvalue().encode())
        places.append(SiteTable(site, folder / CUT, folder))
    return places
