"""Virtual hospitals cut from one data set: by patient, seeded, every item exactly once."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.rounds import site_name
from components.seeds import generator

_DRAWS = 1000  # Dirichlet draws tried before a partition is given up
_ENOUGH_ITEMS = 10  # below, a Dirichlet site could neither train nor be evaluated


@dataclass(frozen=True)
class Divisible:
    """What a partition may look at: one entry per item in each field.

    Attributes:
        patients: All items of a patient go to one site.
        classes: The item's class, as text; unequal shares (Dirichlet) are drawn per class.
        splits: The split the source names, or ``""``; each is divided on its own, so that a site gets
            its part of every one.
    """

    patients: Sequence[str]
    classes: Sequence[str]
    splits: Sequence[str]


def partition(items: Divisible, plan: str, count: int | None, *, seed: int) -> list[list[int]]:
    """Divide items over virtual sites.

    Args:
        items: The items.
        plan: ``iid``, ``dirichlet:ALPHA`` or ``sizes:A,B,...`` as in `components.study.VirtualSites`.
        count: Number of sites; for ``sizes`` it follows from the plan.
        seed: The study's seed.

    Returns:
        For each site the indexes of its items, ascending.

    Guarantees:
        Every item is at exactly one site, every patient too, no site is without an item, and equal
        arguments give equal sites. ``iid`` and ``sizes`` divide each class (and each named split) alike:
        where every patient has one item, a site's number of items is within one of its share.
        ``dirichlet`` draws each class's shares from a symmetric Dirichlet distribution, anew until every
        site has two classes, all named splits, and ten items (or half its even share, if that is less).

    Raises:
        DataError: If no such division was found.

    Reference:
        Label skew: Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for
        federated visual classification", 2019 (there the shares are drawn per site).

    >>> items = Divisible(patients=list("abcd"), classes=["0", "0", "1", "1"], splits=[""] * 4)
    >>> sorted(len(site) for site in partition(items, "sizes:0.5,0.5", None, seed=1))
    [2, 2]
    """
    kind, _, argument = plan.partition(":")
    groups = _groups(items)
    if kind == "dirichlet":
        return _dirichlet(items, groups, float(argument), int(count or 1), seed)
    if kind not in ("iid", "sizes"):
        raise ValueError(f"partition must be iid, dirichlet:ALPHA or sizes:..., given {plan!r}")
    sites = int(count or 1)
    shares = [float(part) for part in argument.split(",")] if kind == "sizes" else [1 / sites] * sites
    divided = _divide(groups, {stratum: np.array(shares) for stratum in groups}, seed)
    empty = sum(not site for site in divided)
    if empty:
        patients = len(set(items.patients))
        raise DataError(
            f"partition {plan}: {patients} patients cannot be divided over {len(shares)} sites, {empty} would get "
            "none; give fewer sites or larger shares"
        )
    return divided


def partition_by_column(values: Sequence[str], patients: Sequence[str]) -> dict[str, list[int]]:
    """Divide items by a column's value; the site is named after it.

    Args:
        values: The column, one entry per item.
        patients: The patient of each item. One with several values goes to the site that has most of
            that patient's items (the first by name, if two have as many).

    Returns:
        For each site, in the order of their names, the indexes of its items, ascending.

    Raises:
        DataError: If an item has no value, two values give one name, or a name is no site's.
    """
    if not all(value.strip() for value in values):
        raise DataError("the column to partition by is empty for some items: fill it in, or leave those items out")
    by_patient: dict[str, Counter[str]] = defaultdict(Counter)
    for value, patient in zip(values, patients, strict=True):
        by_patient[patient][value] += 1
    home = {patient: min(seen, key=lambda value: (-seen[value], value)) for patient, seen in by_patient.items()}
    names = {value: re.sub(r"[^A-Za-z0-9_.-]+", "-", value).strip("-_.")[:63] for value in set(home.values())}
    if "" in names.values() or len(set(names.values())) < len(names):
        raise DataError("the column to partition by gives sites without a name of their own: use letters and digits")
    try:
        sites: dict[str, list[int]] = {site_name(name): [] for name in sorted(names.values())}
    except ValueError as error:
        raise DataError(f"the column to partition by: {error}") from None
    for index, patient in enumerate(patients):
        sites[names[home[patient]]].append(index)
    return sites


_Stratum = tuple[str, str]  # class, named split


def _groups(items: Divisible) -> dict[_Stratum, list[list[int]]]:
    """Group the items by patient, and the patients by their last class and split in sorted order."""
    by_patient: dict[str, list[int]] = defaultdict(list)
    for index, patient in enumerate(items.patients):
        by_patient[patient].append(index)
    groups: dict[_Stratum, list[list[int]]] = defaultdict(list)
    for indexes in by_patient.values():
        groups[max((items.classes[index], items.splits[index]) for index in indexes)].append(indexes)
    return dict(sorted(groups.items()))


def _divide(
    groups: dict[_Stratum, list[list[int]]], shares: dict[_Stratum, NDArray[np.float64]], seed: int
) -> list[list[int]]:
    """Give each patient, in shuffled order, to the site that is furthest below its share so far."""
    count = len(next(iter(shares.values()))) if shares else 1
    sites: list[list[int]] = [[] for _ in range(count)]
    behind = np.zeros(count)
    for (label, split), patients in groups.items():
        share = shares[label, split]
        for place in generator(seed, "partition", label, split).permutation(len(patients)):
            behind += share * len(patients[place])
            site = int(np.argmax(np.where(share > 0, behind, -np.inf)))
            behind[site] -= len(patients[place])
            sites[site].extend(patients[place])
    return [sorted(site) for site in sites]


def _dirichlet(
    items: Divisible, groups: dict[_Stratum, list[list[int]]], concentration: float, count: int, seed: int
) -> list[list[int]]:
    """Draw each class's shares over the sites until every site can train and be evaluated."""
    labels = sorted(set(items.classes))
    enough = min(_ENOUGH_ITEMS, max(1, len(items.patients) // (2 * count)))
    for draw in range(_DRAWS):
        random = generator(seed, "dirichlet", draw)
        drawn = {label: random.dirichlet([concentration] * count) for label in labels}
        if any(sum(drawn[label][site] for label in labels) == 0 for site in range(count)):
            continue
        divided = _divide(groups, {stratum: drawn[stratum[0]] for stratum in groups}, seed)
        if all(_can_take_part(items, site, enough) for site in divided):
            return divided
    raise DataError(
        f"partition dirichlet:{concentration:g}: none of {_DRAWS} draws gave each of {count} sites {enough} items of "
        "two classes; give a larger concentration or fewer sites"
    )


def _can_take_part(items: Divisible, site: Sequence[int], enough: int) -> bool:
    """Say whether a site has enough items, two classes (where there are two) and every named split."""
    classes = min(2, len(set(items.classes)))
    return (
        len(site) >= enough
        and len({items.classes[index] for index in site}) >= classes
        and len({items.splits[index] for index in site}) == len(set(items.splits))
    )
