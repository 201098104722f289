"""Which hospitals a study has on this machine, for ``wardround up``: whether it trains or analyses."""

from __future__ import annotations

from pathlib import Path

from flows.local_federation import LocalHospital


def training_hospitals(file: Path) -> list[LocalHospital]:
    """Return a hospital for each site of a study that trains.

    Raises:
        WardRoundError: If the study is not sound, or its data are not there.
    """
    from components.data.sources import plan_sources  # both bring torch, which an analysis does without
    from flows import api

    study = api.load(file)
    return [LocalHospital(source.name, study.study, source) for source in plan_sources(study, file.resolve().parent)]


def analysis_hospitals(file: Path, home: Path) -> list[LocalHospital]:
    """Return a hospital for each site of a study that analyses; the tables of virtual ones are written into the home.

    Raises:
        WardRoundError: If the study is not sound, or its data are not there.
    """
    from components.analytics.sources import plan_tables
    from components.site_source import SiteSource, SourcePart
    from components.study_file import load_analysis

    study, found = load_analysis(file), []
    for place in plan_tables(study, file.resolve().parent, home):
        part = SourcePart(site=place.site, kind="folder", path=str(place.file.parent))
        source = SiteSource(name=place.site, parts=[part])
        found.append(LocalHospital(place.site, study.study, source, study.analysis.disclosure))
    return found
