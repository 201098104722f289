"""What a federation learned of a trial whose benefits are known, by the plain loop."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.assemble import assemble
from components.data.encoding import encode_row
from components.data.known_effects import KnownTrial
from components.data.records import encoded_features
from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.exchange.store import FolderStore
from components.federation import Evaluation, evaluation_order, pool
from components.simulation import simulate
from components.site_source import SiteSource
from components.study import Study
from components.training.exchanged_entries import load_entries
from flows.build import build_module
from flows.dispatch import InProcessDispatcher
from flows.readiness import fitted_to
from models.treatment import TreatmentModel
from models.treatment_survival import SurvivalTreatmentModel
from tests.references.tiny_treatment import rows_of, treatment_study, write_hospitals

LOCAL = {"epochs": 1, "batch_size": 32, "optimizer": {"learning_rate": 0.5, "momentum": 0.8}}
ROUNDS = {"max": 12, "convergence": {"metric": "loss", "mode": "min", "patience": 12}}


def dispatcher_of(study: Study, folder: Path, sources: Sequence[SiteSource] = ()) -> InProcessDispatcher:
    """The study's hospitals, or those given, in this process."""
    return InProcessDispatcher(
        {
            source.name: SiteSetting(
                study=study, source=source, state=str(folder / "state" / source.name), store=str(folder / "store")
            )
            for source in sources or plan_sources(study, folder)
        }
    )


@dataclass(frozen=True)
class Recommended:
    """What a federation learned of a trial, and what is known of it.

    Attributes:
        found: [N, 5], of all patients: chance in either arm, benefit, ends of its interval.
        truth: The known benefits.
        tested: The best round on the test patients.
    """

    found: np.ndarray
    truth: np.ndarray
    tested: Evaluation

    @property
    def likeness(self) -> float:
        return float(np.corrcoef(self.found[:, 2], self.truth)[0, 1])


def recommendations(study: Study, trial: KnownTrial, folder: Path, sources: Sequence[SiteSource] = ()) -> Recommended:
    """Train the study, at the sites given or its own, and let the best round recommend to everybody of the trial."""
    strategy, store = assemble(study).strategy, FolderStore(folder / "store")
    sites = sorted(source.name for source in sources or plan_sources(study, folder))
    with closing(dispatcher_of(study, folder, sources)) as dispatcher:
        prepared = {site: dispatcher.prepare(site).result() for site in sites}
        initial = dispatcher.initialise(study, fitted_to(study, prepared)).result()
        best = simulate(study, strategy, dispatcher, store, sites=sites, training="drug-1", initial=initial).best
        orders = {site: evaluation_order(best.plan, site, best.ref.weights, "test") for site in sites}
        tested = pool(study, {site: dispatcher.submit(order).result() for site, order in orders.items()})
    module = build_module(study)
    assert isinstance(module, TreatmentModel | SurvivalTreatmentModel)
    load_entries(module, store.get(best.ref.weights))
    assert study.data.records is not None
    features = encoded_features(study.data.records)
    rows = torch.tensor([encode_row(row, features) for row in rows_of(trial)])
    truth = trial.benefit
    if study.task.survival is not None:
        means = trial.mean_survival(study.task.survival.horizons[-1])
        truth = means[:, 1] - means[:, 0]
    with torch.no_grad():
        return Recommended(module.eval().recommend(rows).numpy(), truth, tested)


def recommend(folder: Path, trial: KnownTrial, **changes: Any) -> Recommended:
    """Train a federation of three hospitals on a trial, and let the best round recommend."""
    write_hospitals(folder, rows_of(trial))
    return recommendations(treatment_study(**{"local": LOCAL, "rounds": ROUNDS, **changes}), trial, folder)
