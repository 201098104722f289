"""Which items belong to which site: the roster's folders, or one data set cut into virtual hospitals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.data.bundled import PREFIX, bundled_table
from components.data.known import default_data_root, find_npz
from components.data.known_tables import known_table
from components.data.labels import parse_label, stratum_of, unit_of
from components.data.listing import Row, read_rows
from components.data.made_tables import PREFIX as MADE_UP
from components.data.made_tables import made_table
from components.data.npz import read_arrays, read_column
from components.data.partition import Divisible, partition, partition_by_column
from components.data.quarantine import UnusableItemError
from components.data.splits import SPLIT_NAMES
from components.errors import DataError
from components.site_source import SiteSource, SourcePart
from components.study import Study, Task, VirtualSites


def plan_sources(study: Study, study_folder: Path, data_root: Path | None = None) -> list[SiteSource]:
    """Say where each site of a study finds its items, in the order of the sites' names.

    Args:
        study: The study.
        study_folder: The folder of the study's file: paths in the study are relative to it.
        data_root: Where public data sets are; by default the folder of ``WARDROUND_DATA``.

    Returns:
        One source for each site of the roster; virtual sites are called ``site-1``, ``site-2``, ...
        (with leading zeros, so that their names sort), or after the column's values. The same study
        gives the same sources.

    Raises:
        DataError: If the data to cut is not there, or cannot be cut as asked.
    """
    if not isinstance(study.sites, VirtualSites):
        sources = []
        for site in sorted(study.sites, key=lambda site: site.name):
            folder = str(_site_path(study, study_folder, site.path, data_root or default_data_root()))
            sources.append(SiteSource(name=site.name, parts=[SourcePart(site=site.name, kind="folder", path=folder)]))
        return sources
    kind: Literal["folder", "npz"] = "npz" if study.data.source == "npz" else "folder"
    if kind == "npz":
        path = find_npz(study.data.path, study_folder=study_folder, data_root=data_root or default_data_root())
    else:
        root = data_root or default_data_root()
        known = known_table(study.data.path, root) if study.data.records is not None else None
        path = known or _site_path(study, study_folder, study.data.path, root)
    sites = _cut(study, study.sites, path)
    return [
        SiteSource(name=name, parts=[SourcePart(site=name, kind=kind, path=str(path), rows=rows)])
        for name, rows in sorted(sites.items())
    ]


def _site_path(study: Study, study_folder: Path, path: str, data_root: Path) -> Path:
    """Return where a site's items are: beside the study; a table also below ``WARDROUND_DATA``, made up or bundled."""
    if study.data.records is not None and path.startswith(MADE_UP):
        return made_table(path, data_root)
    if study.data.records is not None and path.startswith(PREFIX):
        return bundled_table(path)
    beside, public = (study_folder / path).resolve(), (data_root / path).resolve()
    return public if study.data.records is not None and not beside.exists() and public.exists() else beside


def pooled_source(sources: Sequence[SiteSource], name: str = "pooled") -> SiteSource:
    """Return the union of all sites' items, as if they lay in one place; for comparisons in simulations.

    Each site's patients are split as at the site itself: the pooled test items are the sites' test items.
    """
    return SiteSource(name=name, parts=[part for source in sources for part in source.parts])


def _cut(study: Study, sites: VirtualSites, path: Path) -> dict[str, list[int]]:
    """Cut one data set into named sites."""
    rows = [] if study.data.source == "npz" else read_rows(path, study.data, "data.path", unit=unit_of(study.task))
    items = _divisible_rows(rows, study.task) if rows else _divisible_arrays(path)
    kind, _, column = sites.partition.partition(":")
    if kind != "column":
        parts = partition(items, sites.partition, sites.count, seed=study.seed)
        width = len(str(len(parts)))
        return {f"site-{number:0{width}d}": part for number, part in enumerate(parts, start=1)}
    if rows and not any(column in row.extras for row in rows):
        raise DataError(f"partition column:{column}: no such column or key; there are {sorted(rows[0].extras)}")
    values = [row.extras.get(column, "") for row in rows] if rows else read_column(path, column)
    named = partition_by_column(values, items.patients)
    if sites.count not in (None, len(named)):
        raise DataError(f"partition column:{column} gives {len(named)} sites, but sites.count is {sites.count}")
    return named


def _divisible_arrays(path: Path) -> Divisible:
    """Say what a partition may look at in an npz file."""
    arrays = read_arrays(path)
    return Divisible(arrays.patients, [str(label) for label in arrays.labels.tolist()], arrays.splits)


def _divisible_rows(rows: Sequence[Row], task: Task) -> Divisible:
    """Say what a partition may look at in a list: also rows that will be quarantined have to go somewhere."""
    classes = []
    for row in rows:
        try:
            classes.append(stratum_of(parse_label(row.label, task), task))
        except UnusableItemError:
            classes.append("")
    splits = [SPLIT_NAMES.get(row.split.lower(), "") for row in rows]
    return Divisible([row.patient or row.name for row in rows], classes, splits)
