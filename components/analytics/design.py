"""A site's patients as a regression sees them: complete rows, categories as indicators, numbers on one scale.

A number ``x`` with the declared range ``[a, b]`` enters as ``(x - (a + b) / 2) / ((b - a) / 2)``: the scale is the
study's and no site's data, it is equal everywhere, and keeps ``exp(b'x)`` and the information matrix well in range.
Coefficients are given back per unit of the number itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.analytics.disclosure import WithheldError, is_small, rounded
from components.analytics.plan import ARM, Analysis, Disclosure
from components.analytics.table import Cohort, Floats, Integers
from components.errors import RefusedError


@dataclass(frozen=True)
class Design:
    """The patients who have every covariate.

    Attributes:
        cells: Cell in which observation ends, shape (N,).
        events: Whether by the first cause, shape (N,).
        rows: Scaled covariates, shape (N, P).
        labels: Name of each coefficient, for a level with the level.
        scales: What a coefficient is divided by to be per unit of its covariate, shape (P,).
        cohort: Patients of the cohort, and how many of them have the event, whether complete or not.
    """

    cells: Integers
    events: NDArray[np.bool_]
    rows: Floats
    labels: list[str]
    scales: Floats
    cohort: tuple[int, int]


def coefficient_names(analysis: Analysis, covariates: Sequence[str]) -> tuple[list[str], Floats]:
    """Return the label and the scale of each coefficient."""
    labels, scales = list[str](), list[float]()
    for name in covariates:
        item = analysis.covariate(name)
        if item.levels is not None:
            labels += [f"{item.name}: {level}" for level in item.levels[1:]]
            scales += [1.0] * (len(item.levels) - 1)
        else:
            low, high = item.range or (-1.0, 1.0)
            labels.append(item.name)
            scales.append((high - low) / 2)
    return labels, np.array(scales)


def build_design(cohort: Cohort, analysis: Analysis, covariates: Sequence[str]) -> Design:
    """Take the patients without a missing covariate, and scale what they have.

    Raises:
        RefusedError: If a covariate is none of the study's.
    """
    known = {ARM, *(item.name for item in analysis.covariates)}
    unknown = sorted(set(covariates) - known)
    if unknown or not covariates:
        raise RefusedError("a regression was asked for over columns that the study does not have")
    blocks, complete = list[Floats](), np.ones(len(cohort), dtype=bool)
    for name in covariates:
        item = analysis.covariate(name)
        values = cohort.arms.astype(float) if name == ARM else cohort.columns[name]
        if item.levels is not None:
            complete &= values >= 0
            blocks.append(np.stack([values == level for level in range(1, len(item.levels))], axis=1).astype(float))
        else:
            low, high = item.range or (-1.0, 1.0)
            complete &= ~np.isnan(values)
            blocks.append(((values - (low + high) / 2) / ((high - low) / 2))[:, None])
    labels, scales = coefficient_names(analysis, covariates)
    rows = np.concatenate(blocks, axis=1)[complete]
    events = cohort.causes == 1
    return Design(
        cohort.cells[complete], events[complete], rows, labels, scales, cohort=(len(cohort), int(events.sum()))
    )


def told_counts(design: Design, policy: Disclosure) -> tuple[int, int]:
    """Return how many patients, and events, a regression says that it has.

    Where few patients of the cohort lack a covariate, their number would be the difference to what other answers tell
    of the cohort; the cohort's own numbers are told then.
    """
    patients, events = len(design.cells), int(design.events.sum())
    if is_small(design.cohort[0] - patients, policy) or is_small(design.cohort[1] - events, policy):
        patients, events = design.cohort
    return rounded(patients, policy), rounded(events, policy)


def require_large_cells(design: Design, policy: Disclosure) -> None:
    """Refuse to tell sums over few patients.

    Raises:
        WithheldError: If few patients are complete, have an event, or have a level of a category; and not none.
    """
    levels = [place for place, label in enumerate(design.labels) if ": " in label]
    counts = [len(design.cells), int(design.events.sum()), *(int(design.rows[:, place].sum()) for place in levels)]
    if any(is_small(count, policy) for count in counts):
        what = ["complete", "complete and have an event", *(f"in {design.labels[place]}" for place in levels)]
        small = ", ".join(words for count, words in zip(counts, what, strict=True) if is_small(count, policy))
        raise WithheldError(f"fewer than {policy.smallest_cell} patients are {small}")
