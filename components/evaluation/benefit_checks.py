"""Whether what a site tells of benefits can be: of so many patients, with such weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from components.errors import RefusedError
from components.evaluation.benefit import FIELDS, HEAVIEST, ONCE, OVERLAP_BINS, RAREST, TWICE, benefit_bins
from components.rounds import ArmSums, BenefitMoments, TreatmentSums


def check_treatment(sums: TreatmentSums, *, bins: int, most_items: int, survival: bool = False) -> None:
    """Refuse sums that no evaluation could have given.

    Args:
        sums: The sums as received.
        bins: The study's bins.
        most_items: Most patients that are believed.
        survival: Whether patients weigh by their chance of not being censored, too.

    Raises:
        RefusedError: If lengths differ, bins do not rise or are beyond the study's, a number is not finite or below
            zero where it cannot be, there are more patients than `most_items`, a sum is beyond what so many patients
            can have, or the patients are not as many in one part as in another.
    """
    heaviest, lightest = (HEAVIEST, 0.0) if survival else (1.0, 1.0)
    told = [*sums.arms, *sums.whole, *(sums.advice or [])]
    for arm in told:
        _check_lengths(arm, bins)
        _check_groups(arm, heaviest / RAREST, lightest)
    patients = sum(sum(arm.patients) for arm in (*sums.arms, *sums.whole))
    if max(patients, sum(sum(arm.overlap) for arm in sums.arms)) > most_items:
        raise RefusedError(f"the sums about benefits are of more than the {most_items} patients of the evaluation")
    if any(len(arm.bins) > 1 for arm in (*sums.whole, *(sums.advice or []))):
        raise RefusedError("the sums about benefits have groups where there can be one")
    if sums.advice is not None and sum(sum(arm.patients) for arm in sums.advice) != patients:
        raise RefusedError("the sums about benefits are of others by what is recommended than by arm")
    for number, moments in enumerate(sums.moments or []):
        _check_moments(moments, [sums.arms[number], sums.whole[number]], heaviest / RAREST)


def _check_lengths(arm: ArmSums, bins: int) -> None:
    """Refuse lists that do not fit each other or the study."""
    for places, most, lists in (
        (arm.bins, benefit_bins(bins), [arm.patients, *(getattr(arm, name) for name in FIELDS)]),
        (arm.overlap_bins, OVERLAP_BINS, [arm.overlap]),
    ):
        if any(len(found) != len(places) for found in lists) or len(places) > most:
            raise RefusedError("the sums about benefits are not as many as their groups")
        if any(low >= high for low, high in pairwise(places)) or max(places, default=0) >= most:
            raise RefusedError("the bins of benefits do not rise, or are beyond the study's")
    if any(not math.isfinite(value) for name in FIELDS for value in getattr(arm, name)):
        raise RefusedError("a sum about benefits is not finite")


def _check_groups(arm: ArmSums, most: float, lightest: float) -> None:
    """Refuse sums that so many patients cannot have, of whom each weighs `most` at the most."""
    slack = 1 + 1e-9
    for place, count in enumerate(arm.patients):
        benefit, weight, square, outcome, second, third = (getattr(arm, name)[place] for name in FIELDS)
        possible = (
            abs(benefit) <= count * slack,
            count * lightest <= weight * slack and weight <= count * most * slack,
            weight**2 <= square * max(count, 1) * slack and square <= count * most**2 * slack,
            0 <= outcome <= weight * slack,
            0 <= third <= second * slack and second <= square * slack,
        )
        if not all(possible):
            raise RefusedError("a sum about benefits is none of so many people")


def _check_moments(moments: BenefitMoments, arms: Sequence[ArmSums], most: float) -> None:
    """Refuse moments that are not finite, or not of the patients of an arm."""
    weights, squares = (math.fsum(value for arm in arms for value in getattr(arm, name)) for name in FIELDS[1:3])
    for found, total, powers in ((moments.once, weights, ONCE), (moments.twice, squares, TWICE)):
        if not all(math.isfinite(value) for value in found):
            raise RefusedError("a sum about benefits is not finite")
        if not math.isclose(found[powers.index((0, 0))], total, rel_tol=1e-9, abs_tol=1e-12):
            raise RefusedError("the moments of benefits are of others than their groups")
        if any(abs(value) > total * (1 + 1e-9) for value in found):
            raise RefusedError("a sum about benefits is none of so many people")
