"""``python -m benchmarks.treatment``: recommendations held against known benefits, over seeds, and a picture of one.

Each seed draws its own trial, splits, first weights and batches. The federation is trained by the plain loop of
`components.simulation`, which gives what the command gives.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.commands import ROOT
from benchmarks.tables import Cell, markdown_table
from components.assemble import assemble
from components.data.encoding import encode_row
from components.data.known_effects import MADE, KnownTrial, draw_trial, write_trial
from components.data.records import encoded_features
from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.evaluation.figures import DIAGONAL, MODEL_MARKS, canvas, png, titles
from components.evaluation.intervals import Estimate, estimate_text
from components.exchange.store import FolderStore
from components.federation import evaluation_order, pool
from components.simulation import simulate
from components.study import Study
from components.study_file import load_study
from components.training.exchanged_entries import load_entries
from flows.build import build_module
from flows.dispatch import InProcessDispatcher
from flows.readiness import fitted_to

PICTURE = ROOT / "docs" / "images" / "treatment-known.png"
ADAM = {"name": "adam", "learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.001}
PERCEPTRON = {"network.name": "MLP", "network.arguments": {"widths": [16]}, "local.optimizer": ADAM}
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "relapse, T-learner": ("treatment", "made:trial", {}),
    "relapse, X-learner": ("treatment", "made:trial", {"task.treatment.learner": "x"}),
    "relapse, single (MLP)": ("treatment", "made:trial", {"task.treatment.learner": "single", **PERCEPTRON}),
    "relapse, T-learner, no lots drawn": ("treatment", "made:cohort", {}),
    "survival, T-learner (Cox)": ("treatment-survival", "made:trial", {}),
    "survival, DeepSurv (MLP)": (
        "treatment-survival",
        "made:trial",
        {"task.treatment.learner": "single", **PERCEPTRON, "local.epochs": 10},
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What one federation recommended, [N, 5], the known benefits [N], and its metrics on the test patients."""

    found: NDArray[np.float64]
    truth: NDArray[np.float64]
    metrics: dict[str, Estimate]

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """Correlation of predicted and known benefit, bias, share in the interval, share with the better arm."""
        benefit, low, high = self.found[:, 2], self.found[:, 3], self.found[:, 4]
        return (
            float(np.corrcoef(benefit, self.truth)[0, 1]),
            float((benefit - self.truth).mean()),
            float(((low <= self.truth) & (self.truth <= high)).mean()),
            float(((benefit > 0) == (self.truth > 0)).mean()),
        )


def outcome_of(variant: str, seed: int, work: Path) -> Outcome:
    """Train one federation on a trial of its own."""
    name, made, changes = VARIANTS[variant]
    trial, file = draw_trial(replace(MADE[made], seed=seed)), work / f"{made.partition(':')[2]}-{seed}.csv"
    write_trial(trial, file)
    study = load_study(ROOT / "studies" / f"{name}.yaml", {"data.path": str(file), "seed": seed, **changes})
    if made == "made:cohort":
        study = _observed(study)
    return _train(study, trial, work)


def _observed(study: Study) -> Study:
    """Return a study in which chances are fitted."""
    plain = study.model_dump(mode="json")
    plain["data"]["records"]["arm"] |= {"randomised": False, "propensity": None}
    return Study.model_validate(plain)


def _train(study: Study, trial: KnownTrial, work: Path) -> Outcome:
    """Train, and let the best round recommend to everybody."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        folder = Path(place)
        settings = {
            source.name: SiteSetting(
                study=study, source=source, state=str(folder / source.name), store=str(folder / "x")
            )
            for source in plan_sources(study, work)
        }
        store = FolderStore(folder / "x")
        with closing(InProcessDispatcher(settings)) as sites:
            prepared = {site: sites.prepare(site).result() for site in settings}
            initial = sites.initialise(study, fitted_to(study, prepared)).result()
            strategy = assemble(study).strategy
            best = simulate(study, strategy, sites, store, sites=list(settings), training="known", initial=initial).best
            orders = {site: evaluation_order(best.plan, site, best.ref.weights, "test") for site in settings}
            tested = pool(study, {site: sites.submit(order).result() for site, order in orders.items()})
        module = build_module(study)
        load_entries(module, store.get(best.ref.weights))
    features = encoded_features(study.data.records) if study.data.records else []
    rows = torch.tensor([encode_row(dict(zip(trial.columns, row, strict=True)), features) for row in trial.rows])
    with torch.no_grad():
        found = module.eval().recommend(rows).numpy()  # type: ignore[operator, union-attr]
    if study.task.survival is None:
        return Outcome(found, trial.benefit, tested.metrics)
    means = trial.mean_survival(study.task.survival.horizons[-1])
    return Outcome(found, means[:, 1] - means[:, 0], tested.metrics)


def table(outcomes: dict[str, Sequence[Outcome]]) -> str:
    """Return means over the seeds, with the smallest and the largest, and the metrics of seed 1 with intervals."""
    header = ["model", "correlation", "bias", "in its interval", "better arm", "gain (seed 1)", "Qini (seed 1)"]
    rows: list[list[Cell]] = []
    for variant, found in outcomes.items():
        columns = list(zip(*(item.numbers for item in found), strict=True))
        digits = [2, 1 if "survival" in variant else 3, 2, 2]
        cells = [
            f"{mean(values):.{places}f} ({min(values):.{places}f} to {max(values):.{places}f})"
            for values, places in zip(columns, digits, strict=True)
        ]
        places = 0 if "survival" in variant else 3
        told = [estimate_text(found[0].metrics.get(name), places) for name in ("recommended_gain", "qini")]
        rows.append([variant, *cells, *told])
    return markdown_table(header, rows)


def picture(outcome: Outcome) -> bytes:
    """Draw predicted against known benefits of 400 patients, with intervals; returns a PNG."""
    figure, axes = canvas(6.0, 5.2)
    chosen = np.linspace(0, len(outcome.truth) - 1, 400).astype(int)
    found, truth = outcome.found[chosen], outcome.truth[chosen]
    colour, _ = MODEL_MARKS[1]
    spread = np.abs(found[:, 3:5].T - found[:, 2])
    axes.errorbar(
        truth, found[:, 2], yerr=spread, linestyle="", marker=".", markersize=4, color=colour, elinewidth=0.5, alpha=0.6
    )
    most = float(np.abs(outcome.found[:, 3:]).max())
    axes.plot([-most, most], [-most, most], color=DIAGONAL, linewidth=1.4, linestyle=(0, (5, 2)))
    axes.set(xlim=(-0.6, 0.6))
    titles(axes, "A relapse less by the drug", "known benefit, probability", "predicted, with 95 % interval")
    return png(figure)


def main() -> None:
    """Train every variant with every seed; print the table, and draw the picture if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.treatment", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds; default 5")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), help="which; default all")
    parser.add_argument("--picture", action="store_true", help=f"draw {PICTURE.relative_to(ROOT)}")
    options = parser.parse_args()
    outcomes: dict[str, Sequence[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as work:
        for variant in options.variants:
            outcomes[variant] = [outcome_of(variant, seed, Path(work)) for seed in range(1, options.seeds + 1)]
            print(table({variant: outcomes[variant]}), flush=True)
    print(table(outcomes))
    if options.picture:
        PICTURE.write_bytes(picture(next(iter(outcomes.values()))[0]))


if __name__ == "__main__":
    main()
