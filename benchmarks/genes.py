"""``python -m benchmarks.genes``: many genes, screened or as principal components, at hospitals and in one place.

Each seed draws its own patients and splits. Both are trained by the plain loop of `components.simulation`; all rows in
one place are one hospital, which screens, has its own principal components and fits all coefficients alone. The test
patients of each hospital judge both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from lifelines.utils import concordance_index

from benchmarks.commands import ROOT
from benchmarks.tables import Cell, markdown_table
from components.assemble import assemble
from components.data.known_genes import GenePlan, KnownGenes, draw_genes, write_genes
from components.data.patterns import met_columns, with_columns
from components.data.sources import plan_sources, pooled_source
from components.dispatch import SiteSetting
from components.evaluation.intervals import Estimate, estimate_text
from components.exchange.store import FolderStore
from components.federation import evaluation_order, pool
from components.rounds import POOLED
from components.simulation import simulate
from components.study import Study
from components.study_file import load_study
from components.weights import Weights
from flows.dispatch import InProcessDispatcher
from flows.first_weights import make_first_weights

NET = {"local.lasso": 0.03, "local.optimizer.weight_decay": 0.03}
WIDE = "data.records.wide"
VARIANTS: dict[str, dict[str, Any]] = {
    "100 screened genes, elastic net": {f"{WIDE}.components": None, f"{WIDE}.keep": 100, **NET},
    "8 components of all genes": {},
    "8 components of 500 screened genes": {f"{WIDE}.keep": 500},
}


@dataclass(frozen=True)
class Fitted:
    """One model: its metrics on the test patients, its weights, and the sites' count of exact components."""

    metrics: dict[str, Estimate]
    weights: Weights
    exact: int


@dataclass(frozen=True)
class Outcome:
    """What became of one seed's patients: at hospitals, and in one place."""

    federated: Fitted
    pooled: Fitted
    known: KnownGenes

    @property
    def ceiling(self) -> float:
        """Concordance of the hazards that the patients were drawn with, over all of them."""
        days, died = (np.array([float(row[place]) for row in self.known.rows]) for place in (3, 4))
        return float(concordance_index(days, -self.known.log_hazards, died))


def outcome_of(changes: Mapping[str, Any], plan: GenePlan, work: Path) -> Outcome:
    """Train on patients of their own."""
    known, file = draw_genes(plan), work / f"genes-{plan.seed}.csv"
    if not file.exists():
        write_genes(known, file)
    study = load_study(ROOT / "studies" / "genes.yaml", {"data.path": str(file), "seed": plan.seed})
    plain = study.model_dump(mode="json")
    for field, value in changes.items():
        *above, last = field.split(".")
        section = plain
        for part in above:
            section = section[part]
        section[last] = value
    study = Study.model_validate(plain)
    sources = plan_sources(study, work)
    study = with_columns(study, {source.name: met_columns(study, source) for source in sources})
    with tempfile.TemporaryDirectory(dir=work) as folder:
        settings = {
            source.name: SiteSetting(
                study=study, source=source, state=f"{folder}/{source.name}", store=f"{folder}/exchange"
            )
            for source in [*sources, pooled_source(sources, POOLED)]
        }
        with closing(InProcessDispatcher(settings)) as dispatcher:
            sites, exchange = [source.name for source in sources], Path(folder) / "exchange"
            federated = _fit(study, dispatcher, exchange, sites, sites)
            return Outcome(federated, _fit(study, dispatcher, exchange, [POOLED], sites), known)


def _fit(
    study: Study, dispatcher: InProcessDispatcher, exchange: Path, homes: Sequence[str], sites: Sequence[str]
) -> Fitted:
    """Train at some homes, and test the best round at every site."""
    store = FolderStore(exchange)
    prepared = {home: dispatcher.prepare(home).result() for home in homes}
    first = make_first_weights(
        study, prepared, initialise=dispatcher.initialise, dispatcher=dispatcher, exchange=exchange, say=str, check=list
    )
    best = simulate(
        study, assemble(study).strategy, dispatcher, store,
        sites=homes, training="-".join(homes), initial=first.model,
    ).best  # fmt: skip
    orders = {site: evaluation_order(best.plan, site, best.ref.weights, "test") for site in sites}
    tested = pool(study, {site: dispatcher.submit(order).result() for site, order in orders.items()})
    exact = sum(first.components.exact) if first.components is not None else 0
    return Fitted(tested.metrics, store.get(best.ref.weights), exact)


def table(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Return means over the seeds, with the smallest and the largest, and seed 1 with intervals."""
    header = ["model", "where", "concordance", "integrated Brier", "concordance, seed 1", "exact components"]
    rows: list[list[Cell]] = []
    for variant, found in outcomes.items():
        for where in ("federated", "pooled"):
            fitted: list[Fitted] = [getattr(item, where) for item in found]
            cells = [
                _spread([item.metrics[name].value for item in fitted]) for name in ("concordance", "integrated_brier")
            ]
            exact = ", ".join(str(item.exact) for item in fitted)
            rows.append([variant, where, *cells, estimate_text(fitted[0].metrics["concordance"], 3), exact])
    ceiling = _spread([item.ceiling for item in next(iter(outcomes.values()))])
    return markdown_table(header, rows) + f"\nThe hazards that were drawn: {ceiling}"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Train every variant with every seed, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.genes", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds; default 5")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), help="which; default all")
    parser.add_argument("--genes", type=int, default=GenePlan.genes, help="how many; default 10,000")
    options = parser.parse_args()
    outcomes: dict[str, Sequence[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as work:
        for variant in options.variants:
            plans = [GenePlan(genes=options.genes, seed=seed) for seed in range(1, options.seeds + 1)]
            outcomes[variant] = [outcome_of(VARIANTS[variant], plan, Path(work)) for plan in plans]
            print(table({variant: outcomes[variant]}), flush=True)
    print(table(outcomes))


if __name__ == "__main__":
    main()
