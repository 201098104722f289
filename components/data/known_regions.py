"""Real patients in their real hospitals, with genes, a drug and what became of them drawn from a seed.

The patients are those of TCGA-BRCA's clinical table, 1,088 with breast cancer in six regions: who is where, how old,
and how far the tumour had spread, is as it was. That table has no arm, so a drug is given by lots, one to one, and
genes are drawn beside it; what becomes of a patient is drawn as of `components.data.known_effects`, so that each
patient's own benefit is known. What really became of them is left out.

The benefit depends on four of the genes, the age and the stage; the risk on the age, the stage and three other genes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.data.known_effects import FATE, Floats, KnownTrial, draw_fates, draw_genes
from components.data.known_tables import BREAST, known_table
from components.errors import DataError
from components.seeds import generator

REAL_FATE = ("E", "T")  # whether and when a patient really died
_STAGE = "ajcc_pathologic_stage_Stage "
_EARLIER, _LATER = ("IIA", "IIB"), ("IIIA", "IIIC")


@dataclass(frozen=True)
class RegionsPlan:
    """What is drawn over the patients.

    Attributes:
        genes: How many genes each has, 20 or more; four decide about the benefit, three more about the risk.
        seed: Equal seeds give equal tables.
    """

    genes: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        if self.genes < 20:
            raise ValueError(f"a table of regions needs 20 genes at least, given {self.genes}")


def read_patients(name: str, data_root: Path) -> list[dict[str, str]]:
    """Return the real patients, a row each with the region.

    Args:
        name: What is to be drawn, for messages.
        data_root: The folder of ``WARDROUND_DATA``.

    Raises:
        DataError: If their table is not there, or is another than the published one.
    """
    try:
        file = known_table(BREAST, data_root)
    except DataError as error:
        reason = str(error).removeprefix(f"data.path {BREAST!r}: ")
        raise DataError(f"data.path {name!r} is drawn over the patients of {BREAST}: {reason}") from None
    assert file is not None
    with file.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def draw_regions(plan: RegionsPlan, patients: Sequence[Mapping[str, str]]) -> KnownTrial:
    """Draw genes, arms and fates over real patients.

    Args:
        plan: What is drawn.
        patients: Of `read_patients`; their order is kept.
    """
    random, count = generator(plan.seed, "known regions", plan.genes), len(patients)
    years = (np.array([float(row["age_at_index"]) for row in patients]) - 60) / 10
    earlier, later = (_any_stage(patients, stages) for stages in (_EARLIER, _LATER))
    genes = draw_genes(random, count, plan.genes)
    risk = 0.3 * years + 0.4 * earlier + 1.0 * later + genes[:, [0, 5, 10]] @ [0.4, -0.3, 0.3]
    effect = -0.5 + 0.3 * years + 0.6 * later + genes[:, [1, 6, 11, 16]] @ [0.9, -0.7, 0.6, -0.5]
    given = np.full(count, 0.5)
    fates = draw_fates(random, risk, effect, given)
    kept = [column for column in patients[0] if column not in REAL_FATE]
    columns = [*kept, *(f"gene_{number:02d}" for number in range(1, plan.genes + 1)), *FATE]
    rows = [
        [*(row[column] for column in kept), *(f"{value:.3f}" for value in own), *cells]
        for row, own, cells in zip(patients, genes, fates.cells, strict=True)
    ]
    return KnownTrial(columns, rows, fates.chances, fates.log_hazards, given)


def _any_stage(patients: Sequence[Mapping[str, str]], stages: Sequence[str]) -> Floats:
    """Return 1 for each patient of one of these stages, else 0."""
    return np.array([float(any(float(row[_STAGE + stage]) for stage in stages)) for row in patients])
