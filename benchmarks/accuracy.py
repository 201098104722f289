"""What federating is worth: the federated model against each site alone and against all items in one place."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import environment, python, run
from benchmarks.job import pneumonia, write_study
from benchmarks.results import Part
from benchmarks.tables import Cell, markdown_table
from components.evaluation.intervals import Estimate, estimate_text
from components.journal import read
from components.ledger import trainings
from components.study import Study
from flows.results import ALL_SITES, test_results

SEEDS = (1, 2, 3)
ROUNDS = 40  # enough for all of them: after 10, averaging is still on its way
FEDERATED, POOLED, LOCAL = "global", "pooled", "local:"
WITHIN = 0.01  # how far below the pooled model the federated one may be


@dataclass(frozen=True)
class Outcome:
    """Test AUROC on the items of all sites, by model (``global``, ``pooled``, ``local:SITE``), for one seed."""

    seed: int
    auroc: dict[str, Estimate]


def measure(work: Path, *, seeds: Sequence[int] = SEEDS) -> Part:
    """Run the example study with its comparisons, once for each seed."""
    return report([outcome_of(seed, work) for seed in seeds])


def outcome_of(seed: int, work: Path, *, rounds: int = ROUNDS) -> Outcome:
    """Run the real command with one seed: data shares, first weights and batches all follow it."""
    study = pneumonia(seed=seed, rounds__max=rounds, evaluate__compare=["local", "pooled"])
    home = work / f"seed-{seed}"
    run(python("flows.cli", "simulate", str(write_study(study, work))), variables=environment(home))
    found = read_tests(study, home)
    shutil.rmtree(home)
    return Outcome(seed, {model: metrics["auroc"] for model, metrics in found.items()})


def read_tests(study: Study, home: Path) -> dict[str, dict[str, Estimate]]:
    """Return the pooled test metrics of every model of a home's newest training."""
    folder = home / "trainings" / study.study
    ledger = list(trainings(read(folder / "journal.jsonl")).values())[-1]
    return dict(test_results(study, ledger, folder / ledger.training)[ALL_SITES])


def means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return each model's mean over the seeds."""
    return {model: statistics.mean(item.auroc[model].value for item in outcomes) for model in outcomes[0].auroc}


def report(outcomes: Sequence[Outcome]) -> Part:
    """Write up the models, the best local-only one last."""
    mean = means(outcomes)
    local = {model: value for model, value in mean.items() if model.startswith(LOCAL)}
    order = [FEDERATED, POOLED, *sorted(local)]
    rows: list[list[Cell]] = [
        [_words(model), *(estimate_text(item.auroc[model], 3) for item in outcomes), f"{mean[model]:.4f}"]
        for model in order
    ]
    gap = mean[FEDERATED] - mean[POOLED]
    ahead = mean[FEDERATED] - max(local.values(), default=math.nan)
    text = "\n\n".join([
        f"AUROC on the test items of all sites after {ROUNDS} rounds, with 95 % intervals. Each seed draws its own "
        "shares, first weights and batches; every model is the best round of its own training by its own validation "
        "items.",
        markdown_table(["model", *(f"seed {item.seed}" for item in outcomes), "mean"], rows),
        markdown_table(["mean over the seeds", "difference", "asked", "holds"], [
            ["federated - pooled", f"{gap:+.4f}", f"within {WITHIN}", gap >= -WITHIN],
            ["federated - best local-only", f"{ahead:+.4f}", "above 0", ahead > 0],
        ]),
    ])  # fmt: skip
    data = {
        "outcomes": {str(item.seed): {model: found.value for model, found in item.auroc.items()} for item in outcomes},
        "means": mean,
    }
    return Part("accuracy", "Accuracy: federated, pooled and local-only", text, data)


def _words(model: str) -> str:
    return {FEDERATED: "federated", POOLED: "pooled data"}.get(model, f"{model.removeprefix(LOCAL)} alone")
