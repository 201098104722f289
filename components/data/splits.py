"""Training, validation and test items: divided by patient, the same on every run.

A patient's split is a function of the seed and the patient: a hash places each patient on [0, 1), and the
study's fractions cut that line. So a patient who is added later does not move another one from test to
training, as exact stratification would do; only where chance gave a split much less of a class than its
share is it corrected, which at a large site does not happen: see `assign_splits`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from components.rounds import Split
from components.seeds import derive_seed
from components.study import Splits

_LEAST = 0.75  # of its share of a class: 3 standard deviations below it with 900 patients, corrected with 50
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def assign_splits(
    patients: Sequence[str],
    strata: Sequence[str],
    named: Sequence[Split | None],
    *,
    fractions: Splits,
    seed: int,
) -> list[Split]:
    """Say for each item which split it belongs to.

    Args:
        patients: The patient of each item.
        strata: The class of each item; a patient with several counts for the last in sorted order.
        named: The split that the source itself names, where it does. Every item of one patient must
            have the same one (`conflicting_patients` finds the others).
        fractions: Expected fraction of patients in each split.
        seed: The study's seed.

    Returns:
        One split per item, in the order of the items.

    Guarantees:
        - No patient is in two splits.
        - A split that the source names is kept. A validation or test split that it never names is
          drawn from its training patients.
        - Each split has at least three quarters of its share of each class's patients, rounded down,
          and one of them if there are three; a class with fewer is in training, unless a split would
          else be empty. For that, and only then, those whose hash is nearest to the split are moved.
        - As long as nobody has to be moved, a patient's split depends on the seed, the fractions and
          the patient alone: not on the others, nor on their order.
    """
    given = {patient: split for patient, split in zip(patients, named, strict=True)}
    absent = [split for split in SPLITS[1:] if split not in given.values()]
    open_splits: list[Split] = ["train", *absent] if absent else list(SPLITS)
    stratum: dict[str, str] = {}
    for patient, label in zip(patients, strata, strict=True):
        stratum[patient] = max(label, stratum.get(patient, label))
    members: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(given):
        if given[patient] is None or (absent and given[patient] == "train"):
            members[stratum[patient]].append(patient)
    bounds = _bounds(open_splits, fractions)
    result: dict[str, Split] = {patient: split for patient, split in given.items() if split is not None}
    for group in members.values():
        result.update(_divide(group, bounds, seed))
    free = [patient for group in members.values() for patient in group]
    _settle(result, free, bounds, dict.fromkeys(bounds, 1), seed=seed)
    return [result[patient] for patient in patients]


def conflicting_patients(patients: Sequence[str], named: Sequence[Split | None]) -> set[str]:
    """Return the patients whose items the source puts into more than one split."""
    seen: dict[str, set[Split | None]] = defaultdict(set)
    for patient, split in zip(patients, named, strict=True):
        seen[patient].add(split)
    return {patient for patient, splits in seen.items() if len(splits) > 1}


def _bounds(open_splits: Sequence[Split], fractions: Splits) -> dict[Split, tuple[float, float]]:
    """Cut [0, 1) into one interval for each open split."""
    shares = {split: float(getattr(fractions, split)) for split in open_splits}
    total, start = sum(shares.values()), 0.0
    bounds: dict[Split, tuple[float, float]] = {}
    for split, share in shares.items():
        bounds[split] = (start, start + share / total)
        start += share / total
    return bounds


def _position(seed: int, patient: str) -> float:
    """Place a patient on [0, 1) by hash."""
    return derive_seed(seed, "split", patient) / 2**63


def _divide(group: Sequence[str], bounds: Mapping[Split, tuple[float, float]], seed: int) -> dict[str, Split]:
    """Divide the patients of one class by hash, and see that each split has most of its share."""
    result: dict[str, Split] = {}
    for patient in group:
        place = _position(seed, patient)
        result[patient] = next((split for split, (_, end) in bounds.items() if place < end), list(bounds)[-1])
    shares = {split: int(_LEAST * (end - start) * len(group)) for split, (start, end) in bounds.items()}
    least = {split: max(1, share) for split, share in shares.items()}
    _settle(result, group, bounds, least if sum(least.values()) <= len(group) else dict.fromkeys(bounds, 1), seed=seed)
    return result


def _settle(
    result: dict[str, Split],
    free: Sequence[str],
    bounds: Mapping[Split, tuple[float, float]],
    least: Mapping[Split, int],
    *,
    seed: int,
) -> None:
    """Move the nearest free patients into splits that have too few: only into training with less than three of them."""
    if len(free) < len(SPLITS):
        least = {"train": 1} if free else {}
    places = {patient: _position(seed, patient) for patient in free}
    for split, needed in least.items():
        start, end = bounds[split]
        while (counts := Counter(result.values()))[split] < needed:
            spare = [patient for patient in free if counts[result[patient]] > least.get(result[patient], 0)]
            result[min(spare, key=lambda who: (max(start - places[who], places[who] - end), who))] = split
