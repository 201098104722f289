"""Tables by the names ``made:...``: drawn from a seed once, and kept as a CSV in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from components.data.known_effects import KnownTrial, TrialPlan, draw_trial, write_trial
from components.data.known_genes import GenePlan, draw_genes, write_genes
from components.data.known_regions import RegionsPlan, draw_regions, read_patients
from components.errors import DataError

PREFIX = "made:"
TRIALS: Mapping[str, TrialPlan | RegionsPlan] = {
    "made:trial": TrialPlan(),
    "made:cohort": TrialPlan(randomised=False),
    "made:regions": RegionsPlan(),
}
MADE: Mapping[str, TrialPlan | RegionsPlan | GenePlan] = {**TRIALS, "made:genes": GenePlan()}
_FORMAT = 1  # of the tables: raised when the same name would hold other numbers


def draw_made(name: str, data_root: Path, *, seed: int | None = None) -> KnownTrial:
    """Draw what a name of `TRIALS` stands for, with all that nobody knows of a real trial.

    Args:
        name: The name.
        data_root: The folder of ``WARDROUND_DATA``, for those that are drawn over real patients.
        seed: Another than the plan's own.

    Raises:
        DataError: If there is no such name, or the real patients are not there.
    """
    plan = TRIALS[_known(name, TRIALS)]
    plan = plan if seed is None else replace(plan, seed=seed)
    return draw_trial(plan) if isinstance(plan, TrialPlan) else draw_regions(plan, read_patients(name, data_root))


def made_table(name: str, data_root: Path) -> Path:
    """Return the table of a name of `MADE`, drawn once into the user's cache folder.

    Args:
        name: The name.
        data_root: As of `draw_made`.

    Raises:
        DataError: As of `draw_made`.
        StorageError: If it cannot be written.
    """
    import pooch  # type: ignore[import-untyped]  # the cache folder that known data sets are in, too

    key = hashlib.sha256(f"{_FORMAT} {MADE[_known(name, MADE)]}".encode()).hexdigest()[:16]
    file = Path(pooch.os_cache("wardround")) / "made" / f"{name.removeprefix(PREFIX)}-{key}.csv"
    if not file.is_file():
        plan = MADE[name]
        if isinstance(plan, GenePlan):
            write_genes(draw_genes(plan), file)
        else:
            write_trial(draw_made(name, data_root), file)
    return file


def _known(name: str, plans: Mapping[str, object]) -> str:
    """Refuse a name that stands for nothing."""
    if name not in plans:
        raise DataError(f"data.path {name!r}: there is no such made-up table; there are {', '.join(sorted(plans))}")
    return name
