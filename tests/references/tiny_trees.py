"""The tiny tabular study with boosted trees, and the plain loop over its hospitals."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from components.assemble import assemble
from components.data.sources import plan_sources
from components.dispatch import InitialModel, SiteSetting
from components.exchange.store import FolderStore
from components.simulation import Simulation, simulate
from components.site_source import SiteSource
from components.study import Study
from flows.dispatch import InProcessDispatcher
from flows.readiness import fitted_to
from tests.references.tiny_table import FEATURES, sections

LOCAL = {"batch_size": 32, "optimizer": {"learning_rate": 0.05}}  # the defaults: there is nothing to set


def trees_sections(
    *, trees: int = 5, depth: int = 3, bins: int = 16, smallest_cell: int = 1, boosting: Any = None, **changes: Any
) -> dict[str, Any]:
    """The study as plain data."""
    arguments = {"trees": trees, "depth": depth, "bins": bins}
    return sections(
        **{
            "network": {"name": "BoostedTrees", "arguments": arguments},
            "strategy": {"name": "HistogramBoosting", "learning_rate": 0.3, **(boosting or {})},
            "local": LOCAL,
            "data": {"records": {"features": FEATURES, "smallest_cell": smallest_cell}},
            "rounds": {"max": 1 + trees * depth, "convergence": None},
            **changes,
        }
    )


def trees_study(**changes: Any) -> Study:
    """The study as a record."""
    return Study.model_validate(trees_sections(**changes))


def grown(
    study: Study, folder: Path, sources: Sequence[SiteSource] | None = None, initial: InitialModel | None = None
) -> tuple[Simulation, InitialModel]:
    """Train the study on the tables of a folder, in this process; `initial` comes from another training of it."""
    settings = {
        source.name: SiteSetting(
            study=study, source=source, state=str(folder / "state" / source.name), store=str(folder / "store")
        )
        for source in sources or plan_sources(study, folder)
    }
    with closing(InProcessDispatcher(settings)) as dispatcher:
        found = {site: dispatcher.prepare(site).result() for site in settings}
        assert not [one.reason for one in found.values() if not one.ready]
        initial = initial or dispatcher.initialise(study, fitted_to(study, found)).result()
        strategy, store = assemble(study).strategy, FolderStore(folder / "store")
        result = simulate(
            study, strategy, dispatcher, store, sites=list(settings), training=f"t-{study.digest[:8]}", initial=initial
        )
    return result, initial
