"""Whether a coordinator's memory grows with the number of hospitals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.loopback import federated, loopback
from benchmarks.processes import memory_by_kind
from benchmarks.results import Part
from benchmarks.tables import Cell, markdown_table, megabytes

HOSPITALS = (3, 12)
MILLIONS = 7.0
UPDATE_BYTES = 4e6 * MILLIONS
ROUNDS = 4


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        hospitals: How many.
        train_bytes: Most memory of the process of ``wardround train``.
        gateway_bytes: Most memory of the gateway.
        load: Load average when it started.
    """

    hospitals: int
    train_bytes: int
    gateway_bytes: int
    load: float


def measure(work: Path, *, repeats: int = 2, database: str = "both") -> Part:
    """Train with few and with many hospitals in turn, several times.

    Args:
        work: An empty folder.
        repeats: How often each.
        database: PostgreSQL if it is asked for alone, else SQLite: memory does not depend on it.
    """
    chosen = "postgresql" if database == "postgresql" else "sqlite"
    return report([measure_one(work, number, chosen) for _ in range(repeats) for number in HOSPITALS])


def measure_one(work: Path, hospitals: int, database: str) -> Run:
    """Bring so many hospitals up, train, and take them down."""
    study = federated(hospitals, MILLIONS, work, rounds=ROUNDS)
    with loopback(study, work, database) as up:
        trained = up.train(study)
        gateway = memory_by_kind(up.home).get("gateway", [])
    return Run(
        hospitals, trained.finished.peak_bytes, max((memory.peak for memory in gateway), default=0),
        trained.finished.load,
    )  # fmt: skip


def report(runs: Sequence[Run]) -> Part:
    """Write up the runs."""
    middle = {number: _medians([run for run in runs if run.hospitals == number]) for number in HOSPITALS}
    few, many = (middle[number] for number in HOSPITALS)
    rows: list[list[Cell]] = [
        [number, megabytes(values["train_bytes"]), megabytes(values["gateway_bytes"])]
        for number, values in middle.items()
    ]
    asked: list[list[Cell]] = []
    for name, key in (("wardround train", "train_bytes"), ("gateway", "gateway_bytes")):
        more = many[key] - few[key]
        asked.append([f"{name}, {HOSPITALS[1]} hospitals over {HOSPITALS[0]} (MB)", more / 1e6,
                      f"< {UPDATE_BYTES / 1e6:.0f}, one update", more < UPDATE_BYTES])  # fmt: skip
    loads = sorted(run.load for run in runs)
    text = "\n\n".join([
        f"Most memory in {ROUNDS} rounds with updates of {UPDATE_BYTES / 1e6:.0f} MB; medians of "
        f"{len(runs) // len(HOSPITALS)} runs each, interleaved; load average when they started "
        f"{loads[0]:.1f} to {loads[-1]:.1f}. No growth is asked: {HOSPITALS[1] - HOSPITALS[0]} more hospitals may not "
        "cost as much as one more update.",
        markdown_table(["hospitals", "wardround train", "gateway"], rows),
        markdown_table(["measured", "grown by", "asked", "holds"], asked),
    ])  # fmt: skip
    return Part("memory", "Memory of a coordinator", text, {"runs": [asdict(run) for run in runs]})


def _medians(runs: Sequence[Run]) -> Mapping[str, float]:
    return {key: statistics.median(getattr(run, key) for run in runs) for key in ("train_bytes", "gateway_bytes")}
