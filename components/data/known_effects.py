r"""A made-up trial in which each patient's own benefit is known, so that what a model says can be checked.

Patients have an age, a stage, a receptor and genes in correlated groups; hospitals see unlike patients. Two outcomes
are drawn for each, whatever the arm, and the one of the arm given is told:

- a relapse within a year, :math:`\mathrm{logit}\,P(y_a = 1) = f(x) + a\,h(x)`;
- the time to death, :math:`S_a(t) = \exp(-(t/\sigma)^k e^{f(x) + a\,h(x)})` (Weibull, proportional hazards), censored
  when the patient is last seen.

:math:`h` is linear in the age and in two genes, and of either sign: some are helped, some harmed, and the mean effect
is small. With ``randomised=False`` older patients, later stages and those with more of a gene that makes a relapse
more probable are treated more often; only what these leave open is chance.

All of it is synthetic: no clinical meaning, no patient. The scales (ages, stages, hazards) are those of breast cancer.
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

HOSPITALS: Mapping[str, tuple[float, float, float]] = {  # part of the patients, mean age in years, shift of the stage
    "east": (0.2, 66.0, 0.5),
    "north": (0.4, 58.0, 0.0),
    "south": (0.3, 60.0, -0.3),
    "west": (0.1, 54.0, 0.2),
}
STAGES = ("I", "II", "III")
SHAPE, SCALE_DAYS, SEEN_DAYS = 1.3, 2500.0, (365.0, 3650.0)
FATE = ("drug", "outcome", "days", "died")  # the columns that say what became of a patient


@dataclass(frozen=True)
class TrialPlan:
    """What is drawn.

    Attributes:
        patients: How many.
        genes: How many genes each has, 5 or more; two decide about the benefit, three more about the risk.
        randomised: Whether chance alone decides about the arm, one half each.
        seed: Equal seeds give equal trials.
    """

    patients: int = 4000
    genes: int = 20
    randomised: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        if self.patients < 1 or self.genes < 5:
            raise ValueError(f"a trial needs a patient and 5 genes at least, given {self.patients} and {self.genes}")


@dataclass(frozen=True)
class KnownTrial:
    """A trial, and what nobody knows of a real one.

    Attributes:
        columns: Names of the table's columns.
        rows: The table.
        chances: Chance of a relapse in either arm, [N, 2].
        log_hazards: ``f(x) + a h(x)`` of the time to death in either arm, [N, 2].
        propensity: Chance of having been given the drug, [N].
    """

    columns: list[str]
    rows: list[list[str]]
    chances: Floats
    log_hazards: Floats
    propensity: Floats

    @property
    def benefit(self) -> Floats:
        """By how much the drug makes a relapse less probable, [N]."""
        found: Floats = self.chances[:, 0] - self.chances[:, 1]
        return found

    def mean_survival(self, horizon: float) -> Floats:
        """Return the restricted mean survival time in either arm, in days, [N, 2].

        Args:
            horizon: Days to which it is restricted.
        """
        times = np.linspace(0.0, horizon, 301)
        survival = np.exp(-((times / SCALE_DAYS) ** SHAPE) * np.exp(self.log_hazards)[..., None])
        found: Floats = np.trapezoid(survival, times, axis=-1)
        return found


@dataclass(frozen=True)
class Fates:
    """What became of patients, and what would have, in either arm.

    Attributes:
        cells: The columns `FATE` of each.
        chances: As of `KnownTrial`.
        log_hazards: As of `KnownTrial`.
    """

    cells: list[tuple[str, str, str, str]]
    chances: Floats
    log_hazards: Floats


def draw_trial(plan: TrialPlan) -> KnownTrial:
    """Draw a trial.

    >>> trial = draw_trial(TrialPlan(patients=200))
    >>> trial.columns[:5], len(trial.rows), trial.chances.shape
    (['patient', 'hospital', 'age', 'stage', 'receptor'], 200, (200, 2))
    """
    random = generator(plan.seed, "known trial", plan.genes)
    count = plan.patients
    hospitals = random.choice(list(HOSPITALS), size=count, p=[part for part, _, _ in HOSPITALS.values()])
    age = np.clip(random.normal([HOSPITALS[name][1] for name in hospitals], 10), 25, 95).round(1)
    severity = random.normal([HOSPITALS[name][2] for name in hospitals], 1)
    stage, receptor = np.digitize(severity, [-0.3, 0.9]), (random.random(count) < 0.7).astype(int)
    genes = draw_genes(random, count, plan.genes)
    years = (age - 60) / 10
    risk = 0.3 * years + np.array([0.0, 0.5, 1.1])[stage] - 0.4 * receptor + genes[:, :5] @ [0.4, 0.0, 0.0, -0.3, 0.3]
    effect = -0.2 + 0.9 * genes[:, 1] - 0.7 * genes[:, 2] + 0.4 * years
    inclined = 0.5 * years + 1.0 * (stage - 0.8) + 0.6 * genes[:, 0] - 0.5 * genes[:, 1]
    given = np.full(count, 0.5) if plan.randomised else 1 / (1 + np.exp(-inclined))
    fates = draw_fates(random, risk, effect, given)
    columns = ["patient", "hospital", "age", "stage", "receptor"]
    columns += [f"gene_{number:02d}" for number in range(1, plan.genes + 1)]
    columns += FATE
    rows = [
        [f"P{row + 1:05d}", str(hospitals[row]), f"{age[row]:g}", STAGES[stage[row]], str(receptor[row]),
         *(f"{value:.3f}" for value in genes[row]), *fates.cells[row]]
        for row in range(count)
    ]  # fmt: skip
    return KnownTrial(columns, rows, fates.chances, fates.log_hazards, given)


def draw_fates(random: np.random.Generator, risk: Floats, effect: Floats, given: Floats) -> Fates:
    """Draw who is given the drug, and what becomes of each.

    Args:
        random: The source of chance.
        risk: Of each patient, on the scale of logarithms of odds and of hazards, [N].
        effect: What the drug adds to it, [N].
        given: Chance of being given the drug, [N].
    """
    count = len(risk)
    logits = np.stack([risk - 0.9, risk - 0.9 + effect], axis=1)
    hazards = np.stack([risk - 0.5, risk - 0.5 + 0.8 * effect], axis=1)
    arm = (random.random(count) < given).astype(int)
    chances, own = 1 / (1 + np.exp(-logits)), np.arange(count)
    relapse = random.random(count) < chances[own, arm]
    death = SCALE_DAYS * (random.exponential(size=count) / np.exp(hazards[own, arm])) ** (1 / SHAPE)
    seen = random.uniform(*SEEN_DAYS, size=count)
    days = np.maximum(np.ceil(np.minimum(death, seen)), 1).astype(int)
    columns = np.where(arm, "yes", "no"), np.where(relapse, "relapse", "well"), days, (death <= seen).astype(int)
    cells = [(str(drug), str(outcome), str(day), str(died)) for drug, outcome, day, died in zip(*columns, strict=True)]
    return Fates(cells, chances, hazards)


def draw_genes(random: np.random.Generator, count: int, genes: int) -> Floats:
    """Return expressions as standard scores, [N, G]: genes that stand beside each other, five by five, go together."""
    shared = np.repeat(random.normal(size=(count, -(-genes // 5))), 5, axis=1)[:, :genes]
    found: Floats = (np.sqrt(0.3) * shared + np.sqrt(0.7) * random.normal(size=(count, genes))).round(3)
    return found


def write_trial(trial: KnownTrial, file: Path) -> None:
    """Write a trial's table as a CSV, whole or not at all; what nobody knows is not in it.

    Raises:
        StorageError: If it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(trial.columns)
    writer.writerows(trial.rows)
    with storage_errors("write", file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.getvalue().encode())
