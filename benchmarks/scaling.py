"""What a round costs beyond training: by number of sites and by size of the network.

The whole path runs, from the command to the registry; only the training is as small as it can be: one step on
four images of 8 by 8 pixels. The network's parameters sit where an image has shrunk to one pixel.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import environment, python, run
from benchmarks.job import write_study
from benchmarks.readings import read_training, seconds_per_round
from benchmarks.results import Part
from benchmarks.tables import Cell, markdown_table, megabytes
from components.study import Study

SITES = (3, 16, 64)
MILLIONS = (0.1, 1.0, 10.0, 100.0)
ROUNDS = 4
ITEMS = {"train": 8, "val": 4, "test": 4}  # of each site, half of them of each class
DISK_SHARE = 0.5  # of the free disk that one run may fill
MEMORY_SITES = (4, 64)


@dataclass(frozen=True)
class Cost:
    """A round of one size.

    Attributes:
        sites: Number of sites.
        millions: Parameters of the network.
        beyond_s: Seconds per round that were not spent in local training, from the second round on.
        training_s: Seconds per round in local training, added up over the sites (one process trains them all).
        job_s: From the command to its end.
        peak_bytes: Most memory of the coordinating process.
        load: Load average when it started.
        skipped: Why it was not run.
    """

    sites: int
    millions: float
    beyond_s: float = math.nan
    training_s: float = math.nan
    job_s: float = math.nan
    peak_bytes: int = 0
    load: float = 0.0
    skipped: str = ""


def measure(work: Path, *, largest_millions: float = MILLIONS[-1]) -> Part:
    """Run all combinations, and the aggregation alone for its memory.

    Args:
        work: An empty folder; what a run wrote is removed before the next.
        largest_millions: Leaves larger networks out.
    """
    costs = [cost_of(sites, size, work) for size in MILLIONS if size <= largest_millions for sites in SITES]
    memory = {sites: aggregation_bytes(sites, work / "aggregation") for sites in MEMORY_SITES}
    return report(costs, memory)


def study_of(sites: int, millions: float, npz: Path) -> Study:
    """Return a study with so many sites and parameters, over an npz file."""
    return Study.model_validate({
        "study": f"size-{sites}-sites",
        "task": {"kind": "binary", "classes": ["normal", "ill"]},
        "network": {"name": "CNN", "arguments": {"widths": widths(millions)}},
        "data": {"source": "npz", "path": str(npz), "spatial_size": [8, 8], "intensity": "window",
                 "window": [0.0, 255.0]},
        "sites": {"count": sites, "partition": "iid"},
        "rounds": {"max": ROUNDS, "convergence": None},
        "local": {"steps": 1, "batch_size": 4, "optimizer": {"name": "sgd", "learning_rate": 0.01}},
        "evaluate": {"bins": 100},
    })  # fmt: skip


def widths(millions: float) -> list[int]:
    """Return the channels of a `models.cnn.CNN` with about so many million parameters.

    Two 3 x 3 convolutions hold them, from 8 to w and from w to w channels.

    >>> width = widths(1.0)[-1]
    >>> 9 * (8 * width + width * width) / 1e6 > 0.99
    True
    """
    width = round(-4 + math.sqrt(16 + millions * 1e6 / 9))
    return [8, 8, width, width]


def write_items(sites: int, path: Path) -> Path:
    """Write noise for so many sites as an npz file."""
    random = np.random.default_rng(1)
    arrays: dict[str, Any] = {}
    for part, each in ITEMS.items():
        count = each * sites
        arrays[f"{part}_images"] = random.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def cost_of(sites: int, millions: float, work: Path) -> Cost:
    """Run one size with the real command, all sites in one process."""
    too_much = refusal(sites, millions, work)
    if too_much:
        return Cost(sites, millions, skipped=too_much)
    study = study_of(sites, millions, write_items(sites, work / "items.npz"))
    home = work / "home"
    shutil.rmtree(home, ignore_errors=True)
    command = python("flows.cli", "simulate", str(write_study(study, work)), "--dispatcher", "processes:1")
    done = run(command, variables=environment(home))
    found = read_training(home, study.study)
    shutil.rmtree(home)
    training_s = sum(found.training_s[1:]) / (len(found.training_s) - 1)
    return Cost(
        sites=sites,
        millions=millions,
        beyond_s=seconds_per_round(found.rounds, first=2) - training_s,
        training_s=training_s,
        job_s=done.seconds,
        peak_bytes=done.peak_bytes,
        load=done.load,
    )


def refusal(sites: int, millions: float, work: Path) -> str:
    """Say why a size cannot be run here; empty if it can."""
    work.mkdir(parents=True, exist_ok=True)
    needed = 4e6 * millions * (ROUNDS * (sites + 3) + 4)  # updates of all rounds; states, versions, a template
    free = shutil.disk_usage(work).free * DISK_SHARE
    return f"{needed / 1e9:.0f} GB of updates, {free / 1e9:.0f} GB of disk to spare" if needed > free else ""


def aggregation_bytes(sites: int, work: Path, millions: float = 10.0) -> int:
    """Return the memory that aggregating so many updates takes, in a process of its own."""
    shutil.rmtree(work, ignore_errors=True)
    command = python("benchmarks.aggregation", str(work), str(sites), str(millions))
    done = run(command, variables=environment(work))
    shutil.rmtree(work)
    return int(json.loads(done.output.splitlines()[-1])["bytes"])


def slope_ms(costs: Sequence[Cost], millions: float) -> tuple[float, float] | None:
    """Return by how many milliseconds a round grows with each site: between the smaller and the larger counts."""
    found = {cost.sites: cost.beyond_s for cost in costs if cost.millions == millions and not cost.skipped}
    if not all(sites in found for sites in SITES):
        return None
    few, some, many = (found[sites] for sites in SITES)
    return 1e3 * (some - few) / (SITES[1] - SITES[0]), 1e3 * (many - some) / (SITES[2] - SITES[1])


def report(costs: Sequence[Cost], memory: dict[int, int]) -> Part:
    """Write up the sizes."""
    sizes = sorted({cost.millions for cost in costs})
    rows: list[list[Cell]] = []
    for size in sizes:
        slopes = slope_ms(costs, size)
        row: list[Cell] = [f"{size:g} M", *(_cell(cost) for cost in costs if cost.millions == size)]
        rows.append([*row, *(slopes or (None, None)), max(slopes) < 30 if slopes else "not measured"])
    header = ["parameters", *(f"{sites} sites (s)" for sites in SITES)]
    header += ["ms a site, 3 to 16", "ms a site, 16 to 64", "below 30 ms"]
    few, many = (memory[sites] for sites in MEMORY_SITES)
    loads = sorted(cost.load for cost in costs)
    text = "\n\n".join([
        "Seconds per round beyond local training: sending, checking, averaging, evaluating at every site, journal, "
        f"and what recording takes from it; from the second of {ROUNDS} rounds on; all sites in one process; load "
        f"average when they started {loads[0]:.1f}-{loads[-1]:.1f}.",
        markdown_table(header, rows),
        *_reasons(costs),
        f"Aggregating updates of 10 M parameters takes {megabytes(few)} beyond the state with {MEMORY_SITES[0]} sites "
        f"and {megabytes(many)} with {MEMORY_SITES[1]}.",
    ])  # fmt: skip
    data: dict[str, Any] = {"costs": [asdict(cost) for cost in costs], "aggregation_bytes": memory}
    return Part("scaling", "Cost by size", text, data)


def _cell(cost: Cost) -> str:
    return "skipped" if cost.skipped else f"{cost.beyond_s:.2f}"


def _reasons(costs: Sequence[Cost]) -> list[str]:
    """Say why sizes were skipped."""
    return [
        f"Skipped: {cost.sites} sites with {cost.millions:g} M parameters ({cost.skipped})."
        for cost in costs
        if cost.skipped
    ]
