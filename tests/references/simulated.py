"""A study run by `components.simulation` in this process, and what its sites' batches are made of."""

from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from components.assemble import assemble
from components.data.site_data import SiteData, open_site_data
from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.exchange.store import FolderStore
from components.seeds import derive_seed
from components.simulation import Simulation, simulate
from components.study import Study
from flows.dispatch import InProcessDispatcher
from tests.references.naive_federation import Site


def run_simulation(study: Study, folder: Path, *, state: Path) -> Simulation:
    """Train the study; films are in `folder`, what the sites and the exchange keep is in `state`."""
    sources = plan_sources(study, folder, folder)
    settings = {
        source.name: SiteSetting(study=study, source=source, state=str(state / source.name), store=str(state / "store"))
        for source in sources
    }
    with closing(InProcessDispatcher(settings)) as dispatcher:
        return simulate(
            study,
            assemble(study).strategy,
            dispatcher,
            FolderStore(state / "store"),
            sites=list(settings),
            training="simulated",
            initial=dispatcher.initialise(study).result(),
        )


def open_sites(study: Study, folder: Path, *, state: Path) -> dict[str, SiteData]:
    """Open each site's data."""
    sources = plan_sources(study, folder, folder)
    return {source.name: open_site_data(study, source, state / source.name) for source in sources}


def naive_sites(study: Study, opened: dict[str, SiteData]) -> dict[str, Site]:
    """The sites as `naive_federation` takes them: the batches of the seeds that the study stands for."""
    return {
        name: (data.images("train"), data.labels("train"), _orders(study, name, data)) for name, data in opened.items()
    }


def _orders(study: Study, site: str, data: SiteData) -> list[list[Tensor]]:
    """The rows of each batch, by round."""
    rounds = []
    for number in range(1, study.rounds.max + 1):
        seed = derive_seed(study.seed, "train", site, number)
        batches: list[Tensor] = []
        for passed in range(study.local.epochs or 1):
            draw = torch.Generator().manual_seed(derive_seed(seed, "order", passed))
            rows = torch.randperm(data.size("train"), generator=draw)
            batches += torch.split(rows, study.local.batch_size)
        rounds.append(batches)
    return rounds
