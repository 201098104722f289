"""What a study needs on this machine and is not here, in words; for its operator, never for what leaves a hospital."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from components.data.bundled import PREFIX, lifelines_is_absent
from components.data.known import KNOWN, default_data_root
from components.data.known_tables import BREAST, BREAST_FILES
from components.data.made_tables import PREFIX as MADE_UP
from components.study import Study, VirtualSites

REGIONS = "made:regions"  # drawn over the patients of `BREAST`


def absent_data(study: Study, study_folder: Path, data_root: Path | None = None) -> str:
    """Say what of a study's data is not on this machine, and where it was looked for; nothing is opened.

    Args:
        study: The study.
        study_folder: Where its relative paths start.
        data_root: As of `components.data.sources.plan_sources`.

    Returns:
        A sentence or more without a full stop; empty if all is there, or will be downloaded or drawn.
    """
    root = data_root or default_data_root()
    sites = {"": study.data.path} if isinstance(study.sites, VirtualSites) else {s.name: s.path for s in study.sites}
    tables = study.data.records is not None
    if tables and any(path.startswith(PREFIX) for path in sites.values()) and find_spec("lifelines") is None:
        return lifelines_is_absent(next(path for path in sites.values() if path.startswith(PREFIX)))
    needed: dict[str, str] = {}
    for site, path in sites.items():
        needed |= _files(path, f" ({site})" if site else "", tables=tables)
    published = {BREAST, REGIONS, *KNOWN} & {*sites.values()}
    tried = [] if published else [study_folder]
    tried += [root] if tables or study.data.source == "npz" else []
    absent = {path: site for path, site in needed.items() if not any((place / path).exists() for place in tried)}
    return _words(absent, tried, root)


def _files(path: str, site: str, *, tables: bool) -> dict[str, str]:
    """Return the files, or the folder, that a path of a study stands for, each with whose it is."""
    if path in KNOWN:
        return {} if KNOWN[path].home else {KNOWN[path].file: site}
    if tables and path in (BREAST, REGIONS):
        return {f"{BREAST}/{file}": site for file in BREAST_FILES}
    return {} if tables and path.startswith((MADE_UP, PREFIX)) else {path: site}


def _words(absent: Mapping[str, str], tried: Sequence[Path], root: Path) -> str:
    """Say what is absent, and where it should be."""
    if not absent:
        return ""
    named = ", ".join(f"{path}{site}" for path, site in absent.items())
    given = "" if os.environ.get("WARDROUND_DATA") else ", its default"
    places = {True: f"below WARDROUND_DATA ({root.resolve()}{given})", False: "beside the study ({})"}
    where = " nor ".join(places[place == root].format(place.resolve()) for place in tried)
    holds = sorted({Path(path).parts[0] for path in absent} - {"/", ".."}) if root in tried else []
    advice = f"; set WARDROUND_DATA to the folder that holds {' and '.join(holds)}" if holds else ""
    return f"{named}: not {where}{advice}"
