r"""Made-up patients with thousands of genes, of which it is known what decides their survival.

Genes stand in programmes that go up and down together, as those of a pathway do; most of them belong to none. Hospitals
measure alike but for a shift of each gene of their own (a batch effect). The time to death is

.. math:: S(t) = \exp(-(t/\sigma)^k e^{f(x)})

(Weibull), censored when the patient is last seen; :math:`f` is linear in the activity of three programmes, in five
single genes of no programme and in the age. So a few principal components know most of it; screening finds the rest.

All of it is synthetic: no clinical meaning, no patient.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.files import storage_errors, write_whole
from components.seeds import generator

Floats = NDArray[np.float64]

HOSPITALS: Mapping[str, float] = {"east": 0.25, "north": 0.45, "south": 0.3}  # part of the patients
EFFECTS = (0.8, -0.6, 0.5)  # of the first programmes on the logarithm of the hazard
SINGLE = 0.3  # likewise of each single gene
SINGLES = 5
BELONGING, SHIFT = 0.4, 0.2  # part of the genes that belong to a programme; deviation of a hospital's shifts
SHAPE, SCALE_DAYS, SEEN_DAYS = 1.2, 1800.0, (365.0, 3650.0)


@dataclass(frozen=True)
class GenePlan:
    """What is drawn.

    Attributes:
        patients: How many.
        genes: How many genes each has, 50 or more.
        programmes: How many programmes there are, 3 or more.
        seed: Equal seeds give equal patients.
    """

    patients: int = 600
    genes: int = 10_000
    programmes: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        if self.patients < 1 or self.genes < 50 or self.programmes < len(EFFECTS):
            raise ValueError(f"genes need a patient, 50 genes and {len(EFFECTS)} programmes at least, given {self}")


@dataclass(frozen=True)
class KnownGenes:
    """Patients, and what nobody knows of real ones.

    Attributes:
        names: Names of the genes.
        columns: Names of the other columns.
        rows: The other columns.
        values: Expression of the genes, [N, G].
        activity: Of the programmes, [N, P].
        single: Places of the single genes that matter.
        log_hazards: :math:`f(x)`, [N].
    """

    names: list[str]
    columns: list[str]
    rows: list[list[str]]
    values: Floats
    activity: Floats
    single: list[int]
    log_hazards: Floats


def draw_genes(plan: GenePlan) -> KnownGenes:
    """Draw patients.

    >>> found = draw_genes(GenePlan(patients=100, genes=60))
    >>> found.columns, found.values.shape, len(found.single)
    (['patient', 'hospital', 'age', 'days', 'died'], (100, 60), 5)
    """
    random = generator(plan.seed, "known genes", plan.genes, plan.programmes)
    count = plan.patients
    hospitals = random.choice(list(HOSPITALS), size=count, p=list(HOSPITALS.values()))
    belongs = np.where(random.random(plan.genes) < BELONGING, random.integers(plan.programmes, size=plan.genes), -1)
    weight = random.uniform(0.5, 1.2, size=plan.genes) * random.choice([-1.0, 1.0], size=plan.genes)
    loadings = np.where(belongs == np.arange(plan.programmes)[:, None], weight, 0.0)
    activity = random.normal(size=(count, plan.programmes))
    shifts = {name: random.normal(0, SHIFT, size=plan.genes) for name in HOSPITALS}
    about = activity @ loadings + random.normal(size=(count, plan.genes))
    single = random.choice(np.flatnonzero(belongs < 0), size=SINGLES, replace=False).tolist()
    age = np.clip(random.normal(60, 11, size=count), 25, 95).round(1)
    risk = activity[:, : len(EFFECTS)] @ EFFECTS + SINGLE * about[:, single].sum(axis=1) + 0.02 * (age - 60)
    values = (8 + about + np.stack([shifts[name] for name in hospitals])).round(2)
    death = SCALE_DAYS * (random.exponential(size=count) / np.exp(risk)) ** (1 / SHAPE)
    seen = random.uniform(*SEEN_DAYS, size=count)
    days = np.maximum(np.ceil(np.minimum(death, seen)), 1).astype(int)
    rows = [
        [f"P{row + 1:05d}", str(hospitals[row]), f"{age[row]:g}", str(days[row]), str(int(death[row] <= seen[row]))]
        for row in range(count)
    ]
    names = [f"gene_{number:05d}" for number in range(1, plan.genes + 1)]
    return KnownGenes(names, ["patient", "hospital", "age", "days", "died"], rows, values, activity, single, risk)


def write_genes(found: KnownGenes, file: Path) -> None:
    """Write the table as a CSV, whole or not at all; what nobody knows is not in it.

    Raises:
        StorageError: If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*found.columns, *found.names])
    for row, values in zip(found.rows, found.values.tolist(), strict=True):
        writer.writerow([*row, *values])
    with storage_errors("write", file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.getvalue().encode())
