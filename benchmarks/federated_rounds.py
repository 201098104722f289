"""Time of a round of a federation beyond training, and of the first one: three hospitals on the loopback."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.loopback import WARM_UP, RoundTime, databases, federated, loopback
from benchmarks.results import Part
from benchmarks.tables import Cell, markdown_table

SITES = 3
MODELS = {"tiny": 0.01, "28 MB": 7.0}  # millions of parameters
BEYOND_S = {"tiny": 0.5, "28 MB": 1.0}
FIRST_ROUND_S = 15.0


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        database: Where the servers recorded.
        model: Of which size; a name of `MODELS`.
        first_round_s: From ``wardround train`` until the first round was evaluated; no hospital had torch before.
        rounds: The rounds after those that warm up.
        load: Load average when it started.
    """

    database: str
    model: str
    first_round_s: float
    rounds: list[RoundTime]
    load: float


def measure(work: Path, *, rounds: int = 10, database: str = "both") -> Part:
    """Train each model with each database, every one in a federation of its own.

    Args:
        work: An empty folder; what a run wrote is removed before the next.
        rounds: Rounds that count, after two that do not.
        database: ``sqlite``, ``postgresql`` or ``both``.
    """
    found = [measure_one(work, model, each, rounds) for model in MODELS for each in databases(database, work)]
    return report(found)


def measure_one(work: Path, model: str, database: str, rounds: int) -> Run:
    """Bring three hospitals up, train, and take them down."""
    study = federated(SITES, MODELS[model], work, rounds=WARM_UP + rounds)
    with loopback(study, work, database) as up:
        trained = up.train(study)
    return Run(database, model, trained.first_round_s, trained.rounds, trained.finished.load)


def report(runs: Sequence[Run]) -> Part:
    """Write up the runs."""
    rows: list[list[Cell]] = []
    asked: list[list[Cell]] = []
    for run in runs:
        beyond = [item.beyond_s for item in run.rounds]
        name, most = f"{run.model}, {run.database}", BEYOND_S[run.model]
        rows.append([
            name, *(_median([getattr(item, key) for item in run.rounds]) for key in ("whole_s", "training_s")),
            _median(beyond), _median([item.evaluation_s for item in run.rounds]),
            _median([item.beyond_s - item.evaluation_s for item in run.rounds]),
        ])  # fmt: skip
        spread = f"{min(beyond):.2f} to {max(beyond):.2f}"
        asked.append([f"round beyond training, {name} (s)", _median(beyond), spread, f"<= {most:g}",
                      _median(beyond) <= most])  # fmt: skip
        asked.append([f"first round, {name} (s)", run.first_round_s, "", f"<= {FIRST_ROUND_S:g}",
                      run.first_round_s <= FIRST_ROUND_S])  # fmt: skip
    loads = sorted(run.load for run in runs)
    text = "\n\n".join([
        f"{SITES} hospitals by `wardround up` on the loopback: PostgreSQL or SQLite, Prefect, MLflow, the gateway with "
        f"TLS, signed orders, sealed updates. Medians of {len(runs[0].rounds)} rounds after {WARM_UP}; a round lasts "
        "from one decision to the next. Beyond the slowest site's training there is everything else: sending, "
        "sealing, checking, averaging, the journal, and the evaluation at every site, which stands beside it. The "
        "first round is from `wardround train` until it was evaluated; before, no hospital had imported torch. Load "
        f"average when they started {loads[0]:.1f}-{loads[-1]:.1f}.",
        markdown_table(["model, database", "round (s)", "slowest training (s)", "beyond it (s)",
                        "of that, slowest evaluation (s)", "rest (s)"], rows),
        markdown_table(["measured", "median", "range", "asked", "holds"], asked),
    ])  # fmt: skip
    return Part("rounds", "Rounds of a federation", text, {"runs": [asdict(run) for run in runs]})


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
