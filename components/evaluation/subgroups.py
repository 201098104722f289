"""Patients of one kind: who belongs to which subgroup, and which subgroups a site may tell of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from components.evaluation.histograms import Booleans
from components.features import Records, Subgroup
from components.rounds import ScoreSums

Cells = tuple[int, ...]


def group_names(records: Records, subgroups: Sequence[Subgroup]) -> list[list[str]]:
    """Return, for each subgroup of the study, the names of its groups."""
    features = {feature.name: feature for feature in records.features}
    return [subgroup.names(features[subgroup.feature]) for subgroup in subgroups]


def group_masks(records: Records, subgroups: Sequence[Subgroup], table: Tensor) -> dict[str, Booleans]:
    """Say which rows belong to which group; a row whose value is missing belongs to none of a subgroup.

    Args:
        records: The study's table.
        subgroups: The study's subgroups.
        table: [N, F] encoded rows.
    """
    columns = {feature.name: place for place, feature in enumerate(records.features)}
    masks: dict[str, Booleans] = {}
    for subgroup, names in zip(subgroups, group_names(records, subgroups), strict=True):
        values: NDArray[np.float32] = table[:, columns[subgroup.feature]].numpy()
        # A value at an edge belongs to the band that begins there.
        places = np.searchsorted(np.array(subgroup.edges), values, side="right") if subgroup.edges else values
        for place, name in enumerate(names):
            masks[name] = (places == place) & ~np.isnan(values)
    return masks


def may_be_told(whole: ScoreSums, groups: Mapping[str, ScoreSums], smallest_cell: int) -> list[str]:
    """Return the groups of one subgroup whose sums a site may tell.

    Args:
        whole: The sums of all items, which are told.
        groups: The sums of each group; no item is in two.
        smallest_cell: Fewest items of a class, other than none, that may be told of.

    Guarantees:
        Neither a group that is told, nor what is left of the whole without those that are, has 1 to
        ``smallest_cell - 1`` items of a class or outside it: nothing told is about so few, directly or by subtraction.
        (What is left may be as small as the whole itself is.) A group without items is not told of.
    """
    told = [name for name, sums in groups.items() if sums.count and not _is_small(_cells(sums), smallest_cell)]
    told.sort(key=lambda name: (-groups[name].count, name))
    while told:
        left = _cells(whole)
        for name in told:
            left = tuple(all_ - part for all_, part in zip(left, _cells(groups[name]), strict=True))
        if not _is_small(left, smallest_cell):
            break
        told.pop()  # the smallest
    return [name for name in groups if name in told]


def _cells(sums: ScoreSums) -> Cells:
    """Return how many items have each class, and how many do not; of survival, how many had the event."""
    if sums.survival is not None:
        return sums.survival.events, sums.count - sums.survival.events
    return (*map(sum, sums.positives), *map(sum, sums.negatives))


def _is_small(cells: Cells, smallest_cell: int) -> bool:
    return any(0 < count < smallest_cell for count in cells)
