"""``python -m benchmarks.treatment``: recommendations held against known benefits, over seeds, and a picture of one.

Each seed draws its own trial, splits, first weights and batches. The federation is trained by the plain loop of
`components.simulation`, which gives what the command gives; ``--pooled`` trains the same on all rows in one place, too.
Variants over real patients need the folder of ``WARDROUND_DATA``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
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
from components.data.known import default_data_root
from components.data.known_effects import KnownTrial, write_trial
from components.data.made_tables import PREFIX, draw_made
from components.data.records import encoded_features
from components.data.sources import plan_sources, pooled_source
from components.dispatch import SiteSetting
from components.evaluation.drawing import DIAGONAL, MODEL_MARKS, canvas, png, titles
from components.evaluation.intervals import Estimate, estimate_text
from components.exchange.store import FolderStore
from components.federation import evaluation_order, pool
from components.simulation import simulate
from components.site_source import SiteSource
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
    "survival, X-learner (Cox)": ("treatment-survival", "made:trial", {"task.treatment.learner": "x"}),
    "survival, DeepSurv (MLP)": (
        "treatment-survival",
        "made:trial",
        {"task.treatment.learner": "single", **PERCEPTRON, "local.epochs": 10},
    ),
    "six regions, survival, T-learner": ("treatment-regions", "made:regions", {}),
    "six regions, survival, X-learner": ("treatment-regions", "made:regions", {"task.treatment.learner": "x"}),
}


@dataclass(frozen=True)
class Outcome:
    """What one federation recommended, [N, 5], the known benefits [N], and its metrics on the test patients.

    And what the same learner recommends that was trained on all rows in one place, if it was.
    """

    found: NDArray[np.float64]
    truth: NDArray[np.float64]
    metrics: dict[str, Estimate]
    pooled: NDArray[np.float64] | None = None

    @property
    def in_one_place(self) -> tuple[float, ...]:
        """Correlation of the benefit by all rows in one place with the known one; nothing if it was not trained."""
        return () if self.pooled is None else (float(np.corrcoef(self.pooled[:, 2], self.truth)[0, 1]),)

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


def outcome_of(variant: str, seed: int, work: Path, *, pooled: bool = False) -> Outcome:
    """Train one federation on a trial of its own, and on all of its rows in one place if asked to."""
    name, made, changes = VARIANTS[variant]
    trial = draw_made(made, default_data_root(), seed=seed)
    file = work / f"{made.removeprefix(PREFIX)}-{seed}.csv"
    write_trial(trial, file)
    study = load_study(ROOT / "studies" / f"{name}.yaml", {"data.path": str(file), "seed": seed, **changes})
    if made == "made:cohort":
        study = _observed(study)
    sources = plan_sources(study, work)
    found, metrics = _train(study, sources, trial, work)
    truth = trial.benefit
    if study.task.survival is not None:
        means = trial.mean_survival(study.task.survival.horizons[-1])
        truth = means[:, 1] - means[:, 0]
    return Outcome(found, truth, metrics, _train(study, [pooled_source(sources)], trial, work)[0] if pooled else None)


def _observed(study: Study) -> Study:
    """Return a study in which chances are fitted."""
    plain = study.model_dump(mode="json")
    plain["data"]["records"]["arm"] |= {"randomised": False, "propensity": None}
    return Study.model_validate(plain)


def _train(
    study: Study, sources: Sequence[SiteSource], trial: KnownTrial, work: Path
) -> tuple[NDArray[np.float64], dict[str, Estimate]]:
    """Train, and let the best round recommend to everybody; with its metrics on the test patients."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        folder = Path(place)
        settings = {
            source.name: SiteSetting(
                study=study, source=source, state=str(folder / source.name), store=str(folder / "x")
            )
            for source in sources
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
        return module.eval().recommend(rows).numpy(), tested.metrics  # type: ignore[operator, union-attr]


def table(outcomes: dict[str, Sequence[Outcome]]) -> str:
    """Return means over the seeds, with the smallest and the largest, and the metrics of seed 1 with intervals."""
    header = ["model", "correlation", "bias", "in its interval", "better arm", "gain (seed 1)", "Qini (seed 1)"]
    in_one_place = any(item.in_one_place for found in outcomes.values() for item in found)
    header[2:2] = ["the same in one place"] if in_one_place else []
    rows: list[list[Cell]] = []
    for variant, found in outcomes.items():
        columns = list(zip(*(item.numbers for item in found), strict=True))
        digits = [2, 1 if "survival" in variant else 3, 2, 2]
        if in_one_place:
            columns[1:1], digits[1:1] = list(zip(*(item.in_one_place for item in found), strict=True)), [2]
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
    parser.add_argument("--pooled", action="store_true", help="train on all rows in one place, too")
    parser.add_argument("--picture", action="store_true", help=f"draw {PICTURE.relative_to(ROOT)}")
    options = parser.parse_args()
    outcomes: dict[str, Sequence[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as work:
        for variant in options.variants:
            seeds = range(1, options.seeds + 1)
            outcomes[variant] = [outcome_of(variant, seed, Path(work), pooled=options.pooled) for seed in seeds]
            print(table({variant: outcomes[variant]}), flush=True)
    print(table(outcomes))
    if options.picture:
        PICTURE.write_bytes(picture(next(iter(outcomes.values()))[0]))


if __name__ == "__main__":
    main()
