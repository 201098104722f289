"""Health records, survival and a trial's analysis: what federating costs beside all rows in one place.

By the command, as a user runs it: the studies of four real hospitals and of six real regions with a seed for each
division, and the trial's analysis against lifelines on the pooled table.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
from lifelines import CoxPHFitter

from benchmarks.accuracy import FEDERATED, POOLED, SEEDS, read_tests
from benchmarks.commands import ROOT, environment, python, run
from benchmarks.job import write_study
from benchmarks.results import Part
from benchmarks.tables import Cell, markdown_table
from components.analytics.sources import plan_tables
from components.evaluation.intervals import Estimate, estimate_text
from components.study_file import load_analysis, load_study

STUDIES = ROOT / "studies"
NEWTON: dict[str, Any] = {
    "local.method": "newton",
    "local.epochs": 1,
    "local.optimizer": {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.005},
    "rounds.max": 10,
}
DEEP: dict[str, Any] = {
    "network": {"name": "MLP", "arguments": {"widths": [16], "dropout": 0.2}},
    "local.method": "gradient",
    "local.epochs": 5,
    "local.optimizer": {"name": "adam", "learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0},
    "rounds.max": 20,
}
BINARY, SURVIVAL = ("auroc", "average_precision", "brier", "calibration_slope"), ("concordance", "integrated_brier")
TABLES: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, dict[str, Any]]]]] = {
    "Heart disease, four hospitals of 920 patients": (BINARY, {
        "logistic regression, FedAvg": ("heart", {}),
        "logistic regression, Newton": ("heart", NEWTON),
        "boosted trees": ("heart-trees", {}),
    }),
    "Death after breast cancer, six regions of 1,088 patients": (SURVIVAL, {
        "Cox, Newton": ("breast", {}),
        "DeepSurv, FedAvg": ("breast", DEEP),
    }),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Test metrics on the patients of all hospitals, by model, then name, for one seed."""

    seed: int
    models: Mapping[str, Mapping[str, Estimate]]


def measure(work: Path, *, seeds: Sequence[int] = SEEDS) -> Part:
    """Run each study once for each seed, and the analysis of the trial."""
    differences, texts, data = analysis_differences(work), [], dict[str, Any]()
    for title, (metrics, variants) in TABLES.items():
        found = {name: [outcome_of(*study, seed, work) for seed in seeds] for name, study in variants.items()}
        texts += [f"**{title}.**", table_of(found, metrics)]
        data |= {name: _plain(outcomes, metrics) for name, outcomes in found.items()}
    apart = [[name, f"{value:.1e}"] for name, value in differences.items()]
    text = "\n\n".join([
        "On the test patients of all hospitals: mean over the seeds, in brackets the smallest and the largest, and "
        f"the first seed with its 95 % interval. Seeds {', '.join(map(str, seeds))}; each draws its own splits, "
        "first weights and batches. Pooled: the same model trained on all rows in one place.",
        *texts,
        "**A trial in four hospitals** (`studies/trial.yaml`, 686 patients): the regression stratified by site, with "
        "disclosure control on, against lifelines on the pooled table.",
        markdown_table(["largest difference of", "is"], apart),
    ])  # fmt: skip
    return Part("clinical", "Records, survival and trials", text, {**data, "trial": differences})


def outcome_of(name: str, changes: Mapping[str, Any], seed: int, work: Path) -> Outcome:
    """Train a study with one seed, and on all rows in one place."""
    given = {"evaluate.compare": ["pooled"], "evaluate.external": None, "evaluate.subgroups": [], "seed": seed}
    study = load_study(STUDIES / f"{name}.yaml", {**given, **changes})
    home = work / f"{name}-{seed}"
    run(python("flows.cli", "simulate", str(write_study(study, work))), variables=environment(home))
    found = read_tests(study, home)
    shutil.rmtree(home)
    return Outcome(seed, found)


def table_of(found: Mapping[str, Sequence[Outcome]], metrics: Sequence[str]) -> str:
    """Return models as rows and metrics as columns, the first of them also for the first seed alone."""
    rows: list[list[Cell]] = []
    for name, outcomes in found.items():
        for model, words in ((FEDERATED, "federated"), (POOLED, "pooled")):
            values = {metric: [item.models[model][metric].value for item in outcomes] for metric in metrics}
            first = estimate_text(outcomes[0].models[model][metrics[0]], 3)
            cells = [f"{mean(each):.3f} ({min(each):.3f} to {max(each):.3f})" for each in values.values()]
            rows.append([f"{name}, {words}", *cells, first])
    return markdown_table(["model", *(metric.replace("_", " ") for metric in metrics), f"{metrics[0]}, seed 1"], rows)


def analysis_differences(work: Path) -> dict[str, float]:
    """Return how far the trial's regression is from lifelines' on the pooled table."""
    home = work / "trial"
    run(python("flows.cli", "simulate", str(STUDIES / "trial.yaml")), variables=environment(home))
    (table,) = (home / "analyses").glob("*/*/tables/cox.csv")
    found = pd.read_csv(table, index_col="covariate")
    study = load_analysis(STUDIES / "trial.yaml")
    places = plan_tables(study, STUDIES, work / "cut")
    pooled = pd.concat([pd.read_csv(place.file).assign(site=place.site) for place in places])
    beyond = pooled["time"] > study.analysis.time.end
    pooled.loc[beyond, ["time", "cens"]] = [study.analysis.time.end, 0]
    columns = ["horTh", "menostat", "tgrade"]
    levels = pd.get_dummies(pooled, columns=columns, prefix_sep=": ").drop(
        columns=["horTh: no", "menostat: Pre", "tgrade: I"]
    )
    fitted = CoxPHFitter().fit(levels, "time", "cens", strata=["site"], fit_options={"precision": 1e-12})
    names = [str(name) for name in fitted.params_.index]
    return {
        "coefficients": float((found.loc[names, "coefficient"] - fitted.params_).abs().max()),
        "standard errors": float((found.loc[names, "error"] - fitted.standard_errors_).abs().max()),
    }


def _plain(outcomes: Sequence[Outcome], metrics: Sequence[str]) -> dict[str, Any]:
    """Return the values as JSON."""
    return {
        str(item.seed): {
            model: {metric: item.models[model][metric].value for metric in metrics} for model in (FEDERATED, POOLED)
        }
        for item in outcomes
    }
