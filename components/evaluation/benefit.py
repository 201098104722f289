r"""Predicted benefits of a treatment as sums that sites can share and anybody can add.

A patient has a predicted benefit :math:`b` in [-1, 1], an arm :math:`a`, an outcome :math:`y` in [0, 1] (1 is what is
wanted) and a weight :math:`w`, one over the chance of his own arm: known in a trial, fitted where nobody drew lots
(inverse probability weighting). By arm and bin of the benefit a site tells patients, :math:`\sum b`, :math:`\sum w`,
:math:`\sum w^2`, :math:`\sum w y`, :math:`\sum w^2 y` and :math:`\sum w^2 y^2`; and by arm a histogram of the chance of
the second arm. Of survival the outcome is the time until the event or the horizon :math:`h`, as a part of it,
:math:`\min(T, h) / h`, and who was censored before has weight 0, the others one over the chance of not having been
censored, besides (inverse probability of censoring weighting).

Under disclosure control neighbouring bins are joined until a group has enough patients of both arms, and of either arm
those with and without the wanted outcome are none or enough; it stands at the bin of its mean benefit. So the sums of
an arm are exact, and where on the scale its patients lie is known to a group. Those whom the model advises for and
against the second arm are not joined, unless the ones or the others are too few by themselves. A site where an arm has
too few altogether tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from components.errors import RefusedError
from components.rounds import ArmSums, TreatmentSums
from components.study import Study

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

BENEFIT = ("benefit", "benefit low", "benefit high")  # a recommendation's columns, after the outcome in either arm
OVERLAP_BINS = 20
HEAVIEST = 10.0  # what not being censored weighs at the most: one over `survival_sums.RAREST`
RAREST = 0.02  # a chance of the own arm below this counts as this: no patient stands for more than 50
_FIELDS = ("benefits", "weights", "squares", "outcomes", "square_outcomes", "squared_outcomes")


@dataclass(frozen=True)
class Predicted:
    """Patients as a model of treatments sees them, each array [N].

    Attributes:
        benefit: Predicted benefit of the second arm, in [-1, 1].
        given: Chance of having been given the second arm, in (0, 1).
        arm: Whether it was the second.
        wanted: Whether the outcome is the one that is wanted; of survival, whether no event was seen until the horizon.
        outcome: Of survival: the part of the time until the horizon that was lived, in [0, 1].
        factor: Of survival: what not being censored weighs, from 0 on.
    """

    benefit: Floats
    given: Floats
    arm: Booleans
    wanted: Booleans
    outcome: Floats | None = None
    factor: Floats | None = None


def benefit_bins(bins: int) -> int:
    """Return how many bins the benefit has: an even number, so that 0 is an edge."""
    return bins + bins % 2


def treatment_sums(found: Predicted, *, bins: int, smallest_cell: int) -> TreatmentSums | None:
    """Add up a site's patients.

    Args:
        found: The patients.
        bins: The study's bins.
        smallest_cell: Fewest patients behind anything that is told; 1 joins no bins.

    Returns:
        The sums; None if an arm has no patient, or 1 to ``smallest_cell - 1`` with or without the wanted outcome.

    Raises:
        RefusedError: If a benefit or a chance is not finite.
    """
    if not (np.isfinite(found.benefit).all() and np.isfinite(found.given).all()):
        raise RefusedError("the model's benefits are not finite; its weights cannot be used")
    everybody = np.arange(len(found.arm))
    if len(np.unique(found.arm)) < 2 or not _may_be_told(found, everybody, smallest_cell):
        return None
    places = _places(found.benefit, bins := benefit_bins(bins))
    sides = [np.flatnonzero(places < bins // 2), np.flatnonzero(places >= bins // 2)]
    if any(len(side) and not _may_be_told(found, side, smallest_cell) for side in sides):
        sides = [everybody]
    groups = [group for side in sides for group in _joined(side, places, found, smallest_cell)]
    groups = [group for group in groups if len(group)]
    at = [_mean_place(places[group], found.benefit[group], bins) for group in groups]
    return TreatmentSums(arms=[_arm_sums(found, arm, groups, at, smallest_cell) for arm in (False, True)])


def _places(benefit: Floats, bins: int) -> Integers:
    """Return each patient's bin; a benefit of exactly 0 speaks for the first arm."""
    places = np.clip(((benefit.astype(np.float64) + 1) / 2 * bins).astype(np.int64), 0, bins - 1)
    return np.where(benefit > 0, np.maximum(places, bins // 2), np.minimum(places, bins // 2 - 1))


def _mean_place(places: Integers, benefit: Floats, bins: int) -> int:
    """Return the bin of a group's mean benefit."""
    if places.min() == places.max():
        return int(places[0])
    return int(_places(np.array([benefit.astype(np.float64).mean()]), bins)[0])


def _joined(rows: Integers, places: Integers, found: Predicted, smallest: int) -> list[Integers]:
    """Join neighbouring bins of one side until each group may be told; what is left at its end joins the last."""
    rows = rows[np.argsort(places[rows], kind="stable")]
    ends = np.flatnonzero(np.diff(places[rows], append=-1)) + 1
    groups: list[Integers] = []
    start = 0
    for end in ends:
        if _may_be_told(found, rows[start:end], smallest):
            groups.append(rows[start:end])
            start = int(end)
    rest = rows[start:]
    while len(rest) and groups and not _may_be_told(found, rest, smallest):
        rest = np.concatenate([groups.pop(), rest])
    return [*groups, rest]


def _may_be_told(found: Predicted, rows: Integers, smallest: int) -> bool:
    """Whether of some patients none are too few to be told, and not none, by arm and outcome; both arms are there."""
    if smallest == 1:
        return True
    arm, wanted = found.arm[rows], found.wanted[rows]
    cells = [int(((arm == one) & (wanted == other)).sum()) for one in (False, True) for other in (False, True)]
    enough = min(cells[0] + cells[1], cells[2] + cells[3]) >= smallest
    return enough and not any(0 < count < smallest for count in cells)


def _arm_sums(found: Predicted, arm: bool, groups: Sequence[Integers], at: Sequence[int], smallest: int) -> ArmSums:
    """Add up one arm's patients in each group; groups at one bin are added."""
    given = found.given.astype(np.float64)
    weight = 1 / np.clip(given if arm else 1 - given, RAREST, 1.0)
    weight = weight if found.factor is None else weight * found.factor
    outcome = found.wanted.astype(np.float64) if found.outcome is None else found.outcome
    benefit, square = found.benefit.astype(np.float64), weight**2
    values = (benefit, weight, square, weight * outcome, square * outcome, square * outcome**2)
    mine: dict[int, list[Integers]] = {}
    for place, group in zip(at, groups, strict=True):
        mine.setdefault(place, []).append(group[found.arm[group] == arm])
    rows = {place: np.concatenate(mine[place]) for place in sorted(mine)}
    rows = {place: chosen for place, chosen in rows.items() if len(chosen)}
    chances = _chances(given[found.arm == arm], smallest)
    return ArmSums(
        bins=list(rows),
        patients=[len(chosen) for chosen in rows.values()],
        **{
            name: [math.fsum(part[chosen]) for chosen in rows.values()]
            for name, part in zip(_FIELDS, values, strict=True)
        },
        overlap_bins=list(chances),
        overlap=list(chances.values()),
    )


def _chances(given: Floats, smallest: int) -> dict[int, int]:
    """Return how many patients of an arm have which chance of the second, neighbours joined until none are too few."""
    counts = np.bincount(np.clip((given * OVERLAP_BINS).astype(np.int64), 0, OVERLAP_BINS - 1), minlength=OVERLAP_BINS)
    told: list[tuple[int, int]] = []  # sum of places, and patients
    place_sum = size = 0
    for place, count in enumerate(counts.tolist()):
        place_sum, size = place_sum + place * count, size + count
        if size >= smallest:
            told.append((place_sum, size))
            place_sum = size = 0
    if size and told:
        last = told.pop()
        place_sum, size = place_sum + last[0], size + last[1]
    if size:
        told.append((place_sum, size))
    found: dict[int, int] = {}
    for total, patients in told:
        place = round(total / patients)
        found[place] = found.get(place, 0) + patients
    return found


def add_treatment(sums: Sequence[TreatmentSums]) -> TreatmentSums | None:
    """Add the sums of several sites; None if there are none. Sums are rounded once, whatever the order."""
    if not sums:
        return None
    return TreatmentSums(arms=[_add_arms([item.arms[arm] for item in sums]) for arm in (0, 1)])


def _add_arms(arms: Sequence[ArmSums]) -> ArmSums:
    """Add one arm's sums, bin by bin."""
    at = [(arm, place, index) for arm in arms for index, place in enumerate(arm.bins)]
    bins = sorted({place for _, place, _ in at})
    parts = {place: [(arm, index) for arm, other, index in at if other == place] for place in bins}
    chances: dict[int, int] = {}
    for arm in arms:
        for place, count in zip(arm.overlap_bins, arm.overlap, strict=True):
            chances[place] = chances.get(place, 0) + count
    return ArmSums(
        bins=bins,
        patients=[sum(arm.patients[index] for arm, index in parts[place]) for place in bins],
        **{
            name: [math.fsum(getattr(arm, name)[index] for arm, index in parts[place]) for place in bins]
            for name in _FIELDS
        },
        overlap_bins=sorted(chances),
        overlap=[chances[place] for place in sorted(chances)],
    )


def check_treatment(sums: TreatmentSums, *, bins: int, most_items: int, survival: bool = False) -> None:
    """Refuse sums that no evaluation could have given.

    Args:
        sums: The sums as received.
        bins: The study's bins.
        most_items: Most patients that are believed.
        survival: Whether patients weigh by their chance of not being censored, too.

    Raises:
        RefusedError: If lengths differ, bins do not rise or are beyond the study's, a number is not finite or below
            zero where it cannot be, there are more patients than `most_items`, or a sum is beyond what so many
            patients can have.
    """
    for arm in sums.arms:
        for places, most, lists in (
            (arm.bins, benefit_bins(bins), [arm.patients, *(getattr(arm, name) for name in _FIELDS)]),
            (arm.overlap_bins, OVERLAP_BINS, [arm.overlap]),
        ):
            if any(len(found) != len(places) for found in lists) or len(places) > most:
                raise RefusedError("the sums about benefits are not as many as their groups")
            if any(low >= high for low, high in pairwise(places)) or max(places, default=0) >= most:
                raise RefusedError("the bins of benefits do not rise, or are beyond the study's")
        if any(not math.isfinite(value) for name in _FIELDS for value in getattr(arm, name)):
            raise RefusedError("a sum about benefits is not finite")
        _check_arm(arm, HEAVIEST if survival else 1.0, 0.0 if survival else 1.0)
    for lists in ([arm.patients for arm in sums.arms], [arm.overlap for arm in sums.arms]):
        if sum(map(sum, lists)) > most_items:
            raise RefusedError(f"the sums about benefits are of more than the {most_items} patients of the evaluation")


def _check_arm(arm: ArmSums, heaviest: float, lightest: float) -> None:
    """Refuse sums that so many patients cannot have."""
    slack, most = 1 + 1e-9, heaviest / RAREST
    for place, count in enumerate(arm.patients):
        benefit, weight, square, outcome, second, third = (getattr(arm, name)[place] for name in _FIELDS)
        possible = (
            abs(benefit) <= count * slack,
            count * lightest <= weight * slack and weight <= count * most * slack,
            weight**2 <= square * max(count, 1) * slack and square <= count * most**2 * slack,
            0 <= outcome <= weight * slack,
            0 <= third <= second * slack and second <= square * slack,
        )
        if not all(possible):
            raise RefusedError("a sum about benefits is none of so many people")


def benefit_unit(study: Study) -> float:
    """Return what an outcome of 1 is: a probability, or survival until the last horizon, in the task's unit."""
    return 1.0 if study.task.survival is None else study.task.survival.horizons[-1]


def benefit_words(study: Study) -> str:
    """Return what benefits are measured in.

    For a binary outcome the probability of the class that is wanted, for survival its restricted mean.
    """
    survival = study.task.survival
    if survival is None:
        return f"probability of {study.task.classes[study.task.better]}"
    return f"{survival.unit} of the first {survival.horizons[-1]:g}"


def contrast_words(study: Study) -> str:
    """Return which arm's benefit over which is told of, as ``drug: yes less no``; empty without a treatment."""
    arm = study.data.records.arm if study.data.records else None
    return "" if arm is None else f"{arm.column}: {arm.levels[1]} less {arm.levels[0]}"


def benefit_warnings(study: Study) -> list[str]:
    """Say plainly what a user must know of every benefit of this study; nothing where there is nothing to say.

    That no trial stands behind benefits, and that intervals are too narrow: those of a single learner, and those of an
    X-learner of survival whose effects are straight lines.
    """
    chosen, arm = study.task.treatment, study.data.records.arm if study.data.records else None
    if chosen is None or arm is None:
        return []
    said = []
    if not arm.randomised:
        said.append(
            f"NOT RANDOMISED: nobody drew lots for {arm.column}. Predicted benefits and everything they are judged by "
            "are corrected for the study's features alone; whatever else decided who was given what may be the whole "
            "of them. They are no ground for treating a patient."
        )
    if chosen.learner == "single":
        said.append(
            "INTERVALS TOO NARROW: a single learner draws every benefit towards none, and its intervals do not show "
            "by how much; where benefits are known, they held about half of them, not 95 %. Use the order of the "
            "patients, not the numbers."
        )
    if chosen.learner == "x" and study.network.name == "Linear":
        said.append(
            "INTERVALS TOO NARROW: the effects of this X-learner are straight lines, and its intervals do not show how "
            "far the true ones are from them; where benefits are known, they held about three quarters of them, not "
            "95 %."
        )
    return said
