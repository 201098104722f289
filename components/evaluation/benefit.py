r"""Predicted benefits of a treatment as sums that sites can share and anybody can add.

A patient has a predicted benefit :math:`b` in [-1, 1], an arm :math:`a`, an outcome :math:`y` in [0, 1] (1 is what is
wanted) and a weight :math:`w`, one over the chance of his own arm: known in a trial, fitted where nobody drew lots
(inverse probability weighting). By arm and bin of the benefit a site tells patients, :math:`\sum b`, :math:`\sum w`,
:math:`\sum w^2`, :math:`\sum w y`, :math:`\sum w^2 y` and :math:`\sum w^2 y^2`; and by arm a histogram of the chance of
the second arm. Of survival the outcome is the time until the event or the horizon :math:`h`, as a part of it,
:math:`\min(T, h) / h`, and who was censored before has weight 0, the others one over the chance of not having been
censored, besides (inverse probability of censoring weighting).

Under disclosure control neighbouring bins are joined until a group has enough patients of both arms, and of either arm
those with and without the wanted outcome are none or enough; it stands at the bin of its mean benefit. Those whom the
model advises for and against the second arm are not joined, unless the ones or the others are too few by themselves.
So the sums of an arm are exact, and where on the scale its patients lie is known to a group: the ranking of a site with
few patients is coarse, and one that is left with a single group has none. What does not need the groups is told
without them, from far fewer patients: the sums of those who were given what is recommended and of those who were not;
and by arm the moments of weight, benefit and outcome, from which the slope of the benefit follows exactly, of arms with
more patients than there are moments. A site where an arm has too few altogether tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import RefusedError
from components.rounds import ArmSums, BenefitMoments, TreatmentSums
from components.study import Study

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

BENEFIT = ("benefit", "benefit low", "benefit high")  # a recommendation's columns, after the outcome in either arm
OVERLAP_BINS = 20
HEAVIEST = 10.0  # what not being censored weighs at the most: one over `survival_sums.RAREST`
RAREST = 0.02  # a chance of the own arm below this counts as this: no patient stands for more than 50
ONCE = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1))  # powers of benefit and outcome, in sums of weights
TWICE = tuple((i, j) for j in range(3) for i in range(5 - j))  # the same, in sums of squared weights
FIELDS = ("benefits", "weights", "squares", "outcomes", "square_outcomes", "squared_outcomes")
NOBODY = ArmSums.model_validate({name: [] for name in ArmSums.model_fields})


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
    groups = _groups(places, found, bins // 2, smallest_cell)
    ranked = len(groups) > 1 or len(np.unique(places)) == 1
    at = [_mean_place(places[group], found.benefit[group], bins) for group in groups]
    both = (False, True)
    told = [_arm_sums(found, [group[found.arm[group] == arm] for group in groups], at) for arm in both]
    given = found.given.astype(np.float64)
    chances = [_chances(given[found.arm == arm], smallest_cell) for arm in both]
    return TreatmentSums(
        arms=[
            (sums if ranked else NOBODY).model_copy(update={"overlap_bins": list(part), "overlap": list(part.values())})
            for sums, part in zip(told, chances, strict=True)
        ],
        whole=[NOBODY, NOBODY] if ranked else told,
        advice=_advice(places >= bins // 2, found, smallest_cell),
        moments=_moments(found, smallest_cell),
    )


def _groups(places: Integers, found: Predicted, middle: int, smallest: int) -> list[Integers]:
    """Return the patients in groups of neighbouring bins that may be told; not over the middle, if that can be."""
    sides = [np.flatnonzero(places < middle), np.flatnonzero(places >= middle)]
    if any(len(side) and not _may_be_told(found, side, smallest) for side in sides):
        sides = [np.arange(len(places))]
    return [group for side in sides for group in _joined(side, places, found, smallest) if len(group)]


def _advice(second: Booleans, found: Predicted, smallest: int) -> list[ArmSums] | None:
    """Return the sums of those who were not given what is recommended and of those who were, if they may be told."""
    sides = [np.flatnonzero(found.arm != second), np.flatnonzero(found.arm == second)]
    if any(len(side) and not _enough(found, side, smallest) for side in sides):
        return None
    return [_arm_sums(found, [side], [0]) for side in sides]


def _moments(found: Predicted, smallest: int) -> list[BenefitMoments] | None:
    """Return both arms' moments, if neither has fewer patients than these are numbers."""
    arms = [np.flatnonzero(found.arm == arm) for arm in (False, True)]
    if smallest > 1 and min(map(len, arms)) < len(ONCE) + len(TWICE):
        return None
    weight, outcome, benefit = _weights(found), _outcomes(found), found.benefit.astype(np.float64)

    def added(rows: Integers, power: int, chosen: Sequence[tuple[int, int]]) -> list[float]:
        return [math.fsum(weight[rows] ** power * benefit[rows] ** i * outcome[rows] ** j) for i, j in chosen]

    return [BenefitMoments(once=added(rows, 1, ONCE), twice=added(rows, 2, TWICE)) for rows in arms]


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
    """Whether of some patients enough are of either arm, and none are too few to be told, by arm and outcome."""
    return smallest == 1 or all(_enough(found, rows[found.arm[rows] == arm], smallest) for arm in (False, True))


def _enough(found: Predicted, rows: Integers, smallest: int) -> bool:
    """Whether these patients are enough, and those with the wanted outcome none or enough, and those without it."""
    wanted = int(found.wanted[rows].sum())
    return len(rows) >= smallest and not any(0 < count < smallest for count in (wanted, len(rows) - wanted))


def _weights(found: Predicted) -> Floats:
    """Return what each patient counts, [N]."""
    given = found.given.astype(np.float64)
    weight: Floats = 1 / np.clip(np.where(found.arm, given, 1 - given), RAREST, 1.0)
    return weight if found.factor is None else weight * found.factor


def _outcomes(found: Predicted) -> Floats:
    """Return each patient's outcome, [N]."""
    return found.wanted.astype(np.float64) if found.outcome is None else found.outcome.astype(np.float64)


def _arm_sums(found: Predicted, groups: Sequence[Integers], at: Sequence[int]) -> ArmSums:
    """Add up groups of patients; groups at one bin are added."""
    weight, outcome, benefit = _weights(found), _outcomes(found), found.benefit.astype(np.float64)
    square = weight**2
    values = (benefit, weight, square, weight * outcome, square * outcome, square * outcome**2)
    mine: dict[int, list[Integers]] = {}
    for place, group in zip(at, groups, strict=True):
        mine.setdefault(place, []).append(group)
    rows = {place: np.concatenate(mine[place]) for place in sorted(mine)}
    rows = {place: chosen for place, chosen in rows.items() if len(chosen)}
    return ArmSums(
        bins=list(rows),
        patients=[len(chosen) for chosen in rows.values()],
        **{
            name: [math.fsum(part[chosen]) for chosen in rows.values()]
            for name, part in zip(FIELDS, values, strict=True)
        },
        overlap_bins=[],
        overlap=[],
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
    advice = [item.advice for item in sums if item.advice is not None]
    moments = [item.moments for item in sums if item.moments is not None]
    return TreatmentSums(
        arms=[_add_arms([item.arms[arm] for item in sums]) for arm in (0, 1)],
        whole=[_add_arms([item.whole[arm] for item in sums]) for arm in (0, 1)],
        advice=[_add_arms([item[side] for item in advice]) for side in (0, 1)] if advice else None,
        moments=[_add_moments([item[arm] for item in moments]) for arm in (0, 1)] if moments else None,
    )


def _add_moments(parts: Sequence[BenefitMoments]) -> BenefitMoments:
    """Add one arm's moments."""
    return BenefitMoments(
        once=[math.fsum(values) for values in zip(*(part.once for part in parts), strict=True)],
        twice=[math.fsum(values) for values in zip(*(part.twice for part in parts), strict=True)],
    )


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
            for name in FIELDS
        },
        overlap_bins=sorted(chances),
        overlap=[chances[place] for place in sorted(chances)],
    )


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


def arm_names(study: Study) -> tuple[str, str]:
    """Return both arms of a study of treatments, as ``drug: no`` and ``drug: yes``."""
    arm = study.data.records.arm if study.data.records else None
    assert arm is not None
    return f"{arm.column}: {arm.levels[0]}", f"{arm.column}: {arm.levels[1]}"


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
