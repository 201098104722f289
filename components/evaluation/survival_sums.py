r"""A survival model's predictions as sums that sites can share and anybody can add.

Pairs of patients are compared within a site only: no site tells a patient's time and score, so a pair across sites
cannot be formed; the pairs of all sites are added. What censoring hides is made up for by inverse weights (Graf et al.
1999; Uno et al. 2011) from the site's own Kaplan-Meier curve of censoring, over all of its rows, since sites follow
their patients for unlike times. With its curve :math:`G`, a patient with time :math:`T` and event :math:`\delta` has at
time :math:`t` the squared error

.. math:: \frac{1[T \le t, \delta = 1]}{G(T-)}\,S(t)^2 + \frac{1[T > t]}{G(t)}\,(1 - S(t))^2

A site that follows less than a tenth of its patients until a time (:math:`G(t) < 0.1`) says nothing of it: what became
of the others cannot be made up for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components.errors import RefusedError
from components.rounds import CalibrationSums, PairSums, ScoreSums, SurvivalSums
from components.survival import Survival

if TYPE_CHECKING:  # it adds these sums
    from components.evaluation.histograms import Booleans, Floats

GROUPS = 10  # of equal width, of predicted chances
RAREST = 0.1  # a time with a smaller chance of not being censored until it is not judged: nobody counts for over ten
_ROWS = 512  # of pairs at once: 512 x 10,000 patients are 40 MB


@dataclass(frozen=True)
class Censoring:
    """A site's Kaplan-Meier curve of not being censored.

    Attributes:
        times: Times at which somebody was censored, rising.
        chances: The curve from each of them on.
    """

    times: Floats
    chances: Floats

    def at(self, times: Floats | float) -> Floats:
        """Return the chance of not being censored until and at some times."""
        return self._look_up(times, "right")

    def before(self, times: Floats | float) -> Floats:
        """Return the chance of not being censored before some times."""
        return self._look_up(times, "left")

    def _look_up(self, times: Floats | float, side: str) -> Floats:
        places = np.searchsorted(self.times, times, side=side)  # type: ignore[call-overload]
        found: Floats = np.concatenate([[1.0], self.chances])[places]
        return found


def censoring_of(labels: Floats) -> Censoring:
    """Return the Kaplan-Meier curve of censoring of times and events [N, 2]; events come before what is censored.

    >>> censoring_of(np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])).chances.round(3).tolist()
    [0.667, 0.333]
    """
    time, event = labels[:, 0], labels[:, 1] > 0
    times, counts = np.unique(time[~event], return_counts=True)
    at_risk = np.array([np.sum(time > now) for now in times]) + counts
    return Censoring(times, np.cumprod(1 - counts / at_risk).astype(np.float64))


def survival_sums(
    risk: Floats, chances: Floats, labels: Floats, *, task: Survival, censoring: Censoring, smallest_cell: int
) -> SurvivalSums:
    """Turn predictions and what was seen into sums.

    Args:
        risk: [N] risk scores; higher is earlier.
        chances: [N, J] predicted chances of no event until each edge of the task's grid.
        labels: [N, 2] times and events.
        task: The task.
        censoring: The site's curve of censoring.
        smallest_cell: Fewest patients in a group of the calibration.
    """
    time, event = labels[:, 0], labels[:, 1] > 0
    errors = squared_errors(chances, labels, task.grid.edges, censoring)
    followed = np.full(len(task.grid.edges), len(time)) * (censoring.at(np.array(task.grid.edges)) >= RAREST)
    early = event & (time <= task.horizons[-1]) & (censoring.before(time) >= RAREST)
    return SurvivalSums(
        events=int(event.sum()),
        pairs=pair_sums(risk, time, event, np.ones(len(time))),
        weighted_pairs=pair_sums(risk, time, early, np.maximum(censoring.before(time), RAREST) ** -2.0),
        followed=followed.tolist(),
        brier=errors.sum(axis=0).tolist(),
        brier_squares=(errors**2).sum(axis=0).tolist(),
        calibration=[
            calibration_sums(1 - chances[:, place], labels, until, censoring, smallest_cell)
            for place, until in zip(task.places, task.horizons, strict=True)
        ],
    )


def pair_sums(risk: Floats, time: Floats, event: Booleans, weights: Floats) -> PairSums:
    """Compare all pairs of which one patient had the event, and the other was seen for longer.

    One who was censored at the very time of the other's event was seen for longer.

    Args:
        risk: [N] scores.
        time: [N] times.
        event: [N] whether the event was seen.
        weights: [N] weight of the pairs in which this patient's event came first.

    References:
        Harrell et al. (1982), JAMA 247; Uno et al. (2011), Stat Med 30.

    >>> times, seen = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    >>> found = pair_sums(np.array([3.0, 1.0, 2.0]), times, seen, np.ones(3))
    >>> found.comparable, found.concordant
    (3.0, 2.0)
    """
    here, right = np.zeros(len(time)), np.zeros(len(time))
    first = np.flatnonzero(event)
    for start in range(0, len(first), _ROWS):
        rows = first[start : start + _ROWS]
        later = (time[rows, None] < time) | ((time[rows, None] == time) & ~event)
        comparable = later * weights[rows, None]
        agreed = comparable * ((risk[rows, None] > risk) + 0.5 * (risk[rows, None] == risk))
        for total, pairs in ((here, comparable), (right, agreed)):
            total += pairs.sum(axis=0)
            np.add.at(total, rows, pairs.sum(axis=1))
    return PairSums(
        comparable=float(here.sum() / 2),
        concordant=float(right.sum() / 2),
        squares=float(right @ right),
        products=float(right @ here),
        weights=float(here @ here),
    )


def squared_errors(chances: Floats, labels: Floats, edges: Sequence[float], censoring: Censoring) -> Floats:
    """Return each patient's weighted squared error [N, J] at each edge, by the module's formula; 0 where not told."""
    time, event, until = labels[:, :1], labels[:, 1:] > 0, np.array(edges)
    gone = ((time <= until) & event) / np.maximum(censoring.before(time), RAREST)
    there = (time > until) / np.maximum(censoring.at(until), RAREST)
    errors: Floats = (gone * chances**2 + there * (1 - chances) ** 2) * (censoring.at(until) >= RAREST)
    return errors


def calibration_sums(
    chance: Floats, labels: Floats, until: float, censoring: Censoring, smallest_cell: int
) -> CalibrationSums:
    """Group patients by their predicted chance [N] of the event until a horizon.

    Guarantees:
        A group of 1 to ``smallest_cell - 1`` patients is joined to the next one that is told, or, if there is none, to
        the one before. The sums over all groups stay what they are.
    """
    if censoring.at(until) < RAREST:
        chance, labels = chance[:0], labels[:0]
    time, event = labels[:, 0], labels[:, 1] > 0
    seen = (event & (time <= until)) / np.maximum(censoring.before(time), RAREST)
    group = np.minimum((chance * GROUPS).astype(np.int64), GROUPS - 1)
    columns = [np.bincount(group, values, minlength=GROUPS) for values in
               (np.ones(len(time)), chance, seen, (seen - chance) ** 2)]  # fmt: skip
    table = _joined(np.stack(columns), smallest_cell)
    counts, expected, observed, squares = table.tolist()
    return CalibrationSums(
        counts=[round(count) for count in counts], expected=expected, observed=observed, squares=squares
    )


def add_survival(found: Sequence[SurvivalSums]) -> SurvivalSums:
    """Add sums of several sites, each rounded once from the exact sum."""
    plain = [item.model_dump() for item in found]
    return SurvivalSums.model_validate(_added(plain))


def check_survival(sums: ScoreSums, task: Survival, most_items: int | None) -> None:
    """Refuse sums that no evaluation of a survival model could have given.

    Raises:
        RefusedError: If there are none, shapes are not the study's, or a number cannot be.
    """
    found = sums.survival
    if found is None or any((sums.positives, sums.negatives, sums.score_sums, sums.squared_error, sums.confusion)):
        raise RefusedError("the evaluation is not one of a survival model")
    if most_items is not None and sums.count > most_items:
        raise RefusedError(f"an evaluation of {sums.count} items, the site can have {most_items} at the most")
    if found.events > sums.count:
        raise RefusedError(f"an evaluation of {found.events} events in {sums.count} items")
    _check_shapes(found, task, sums.count)
    if not np.isfinite(sums.loss) or any(not 0 <= number < math.inf for number in _numbers(found.model_dump())):
        raise RefusedError("a number of the evaluation is out of range")
    for pairs in (found.pairs, found.weighted_pairs):
        if pairs.concordant > pairs.comparable * (1 + 1e-9):
            raise RefusedError("the evaluation has more concordant pairs than pairs")
    if any(e > n * (1 + 1e-6) for item in found.calibration for e, n in zip(item.expected, item.counts, strict=True)):
        raise RefusedError("the evaluation expects more events than there are items")


def _check_shapes(found: SurvivalSums, task: Survival, items: int) -> None:
    """Refuse sums of other cells, horizons or groups than the study's."""
    cells = task.grid.cells
    sizes = [len(column) for column in (found.followed, found.brier, found.brier_squares, found.calibration)]
    if sizes != [cells, cells, cells, len(task.horizons)] or max(found.followed) > items:
        raise RefusedError("the evaluation does not have the study's cells and horizons")
    groups = [(item.counts, item.expected, item.observed, item.squares) for item in found.calibration]
    if any(len(column) != GROUPS for item in groups for column in item):
        raise RefusedError(f"the evaluation's calibration does not have {GROUPS} groups")
    if any(min(item.counts) < 0 or sum(item.counts) > items for item in found.calibration):
        raise RefusedError("the evaluation's calibration is of another number of items")


def _joined(table: Floats, smallest: int) -> Floats:
    """Move the columns of too few patients (the first row) into the next."""
    table = table.copy()
    told = [place for place in range(table.shape[1]) if table[0, place] >= smallest]
    for place in range(table.shape[1]):
        if 0 < table[0, place] < smallest and place not in told:
            goal = next((one for one in told if one > place), told[-1] if told else table.shape[1] - 1)
            if goal != place:
                table[:, goal] += table[:, place]
                table[:, place] = 0
    return table


def _added(found: Sequence[Any]) -> Any:
    """Add what was dumped, number by number."""
    first = found[0]
    if isinstance(first, dict):
        return {key: _added([item[key] for item in found]) for key in first}
    if isinstance(first, list):
        return [_added(list(values)) for values in zip(*found, strict=True)]
    if isinstance(first, int):
        return sum(found)
    return math.fsum(found)


def _numbers(found: object) -> list[float]:
    """Return all numbers of what was dumped."""
    if isinstance(found, dict):
        return [number for value in found.values() for number in _numbers(value)]
    if isinstance(found, list):
        return [number for value in found for number in _numbers(value)]
    return [float(found)]  # type: ignore[arg-type]
