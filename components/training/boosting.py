"""One site's half of growing trees: gradients of its own rows, added up for each node, feature and bin of a level.

A site tells of a tree, level by level, histograms that could be subtracted from each other: a node's less its one
child's are the other's. So what may be told apart is decided for both children of a node together, and only among what
was told apart of the node: `TreeCells`. What follows from one tree rests on no row, or on enough of them.
"""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor

from components.cells import merged, middle, told_apart
from components.errors import RefusedError
from components.training.evaluate import BATCH_SIZE
from components.training.exchanged_entries import read_entries
from components.training.local import SiteBatches, SiteResult, whole_site
from components.weights import is_finite

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Groups = list[list[int]]  # slots of a feature that are told together; of categories, those that are told on their own
NOBODY = -1  # of a row that has left the level: its node was not split
SPARE = 2  # slots after those of values: categories told together, and what is missing


class Trees(Protocol):
    """What a module says of the trees it has; `models.trees.BoostedTrees` does."""

    feature: Tensor
    place: Tensor
    places: Tensor
    sums: Tensor

    def right_of(self, rows: Tensor, tree: int) -> Tensor:
        """Return whether each row would go right at each inner node of a tree, [N, K, I]."""
        ...

    def slots_of(self, rows: Tensor) -> Tensor:
        """Return the slot of each value, [N, F]."""
        ...


@runtime_checkable
class IsGrown(Protocol):
    """A module that is grown from sums; `models.trees.TreesModel` is one."""

    network: Trees

    def slopes(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return gradient and curvature of each row's loss, [N, K] each."""
        ...

    def item_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each item, [N]."""
        ...


def boost_site(module: pl.LightningModule, data: SiteBatches, *, smallest_cell: int, seed: int) -> SiteResult:
    """Add up the gradients of a site's own rows for the level that the weights name.

    Args:
        module: An `IsGrown`, with the weights of the round.
        data: The site's data.
        smallest_cell: Fewest rows behind any sum that is told.
        seed: Of the order of the rows, which changes nothing.

    Returns:
        The weights of the round, with the site's sums; rows count as samples.

    Raises:
        DataError: If the site has no training rows.
        RefusedError: If a gradient is not finite.
        ValueError: If the module is not grown.

    Guarantees:
        No told sum, and no difference of sums told of one tree and feature, rests on 1 to ``smallest_cell - 1`` rows
        of the site. Sums of different trees or features can still be compared with each other.
    """
    started = time.perf_counter()
    if not isinstance(module, IsGrown):
        raise ValueError(f"{type(module).__name__} is not grown from sums")
    rows, labels = whole_site(data, seed)
    module.eval()
    gradients, curvatures = module.slopes(rows, labels)
    slopes = torch.stack([gradients, curvatures], dim=2).cpu()  # [N, K, 2]
    if not is_finite(slopes):
        raise RefusedError("a gradient is not finite; the weights cannot be used")
    loss_sum = _loss(module, rows, labels)
    add_up(module.network, rows, slopes, smallest_cell)
    weights = read_entries(module)
    return SiteResult(weights, len(rows), steps=1, loss_sum=loss_sum, seconds=time.perf_counter() - started)


@torch.no_grad()
def _loss(module: pl.LightningModule, rows: Tensor, labels: Tensor) -> float:
    """Return the sum of the rows' losses; a few rows at a time go through all trees."""
    assert isinstance(module, IsGrown)  # checked by the caller; tells the type checker
    pieces = zip(torch.split(rows, BATCH_SIZE), torch.split(labels, BATCH_SIZE), strict=True)
    return sum(float(module.item_losses(module(piece), truth).double().sum()) for piece, truth in pieces)


@torch.no_grad()
def add_up(trees: Trees, rows: Tensor, slopes: Tensor, smallest_cell: int) -> None:
    """Put the sums over rows [N, F] of their slopes [N, K, 2] into the trees, for the level that is grown next."""
    trees.sums.zero_()
    tree, level = (int(value) for value in trees.place)
    if tree < 0:  # the class counts, which the site has told before
        trees.sums[:, 0, 0, 0] = slopes.sum(dim=0)
        return
    if tree >= len(trees.feature) or len(rows) < smallest_cell:
        return
    slots = trees.slots_of(rows).numpy()
    right, split = trees.right_of(rows, tree).numpy(), trees.feature[tree].numpy() >= 0
    cells = TreeCells(slots, trees.places.numpy() > 0, trees.sums.shape[3], smallest_cell)
    for output in range(slopes.shape[1]):
        nodes, told = cells.at_level(level, right[:, output], split[output])
        trees.sums[output] = _histograms(nodes - (2**level - 1), told, slopes[:, output], trees.sums[output].shape)


def _histograms(nodes: Numbers, told: Numbers, slopes: Tensor, shape: torch.Size) -> Tensor:
    """Return sums [nodes, F, slots, 2] of the slopes of rows in `nodes` [N], told at slots [N, F]."""
    there = np.flatnonzero(nodes >= 0)
    features = np.arange(shape[1])
    cells = (nodes[there, None] * shape[1] + features) * shape[2] + told[there]
    sums = torch.zeros(shape[0] * shape[1] * shape[2], 2, dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(cells.ravel()), slopes[there].repeat_interleave(shape[1], dim=0))
    return sums.reshape(shape)


class TreeCells:
    """Which cells of a site's histograms of one tree are told apart.

    Args:
        slots: Slot of each value, [N, F].
        categorical: Which features are categories without an order.
        width: Number of slots; the last two are for categories told together, and for what is missing.
        smallest: Fewest rows behind any sum that is told.
    """

    def __init__(self, slots: Numbers, categorical: Mask, width: int, smallest: int) -> None:
        self._slots, self._categorical, self._width, self._smallest = slots, categorical, width, smallest
        values = [*range(width - SPARE), width - 1]  # what is missing is the last neighbour
        self._root = self._divided(
            [[[value] for value in values] for _ in categorical], [np.ones(len(slots), dtype=bool)]
        )

    def at_level(self, level: int, right: Mask, split: Mask) -> tuple[Numbers, Numbers]:
        """Return the node of each row at a level, and the slot at which each of its values is told.

        Too few rows of the site in one child go with the other: told as its rows, in this tree from here on.

        Args:
            level: 0 for the root.
            right: Whether each row goes right at each inner node, [N, I].
            split: Which inner nodes are split.

        Returns:
            Nodes [N], `NOBODY` where the row is in none of that level; slots [N, F].
        """
        nodes = np.zeros(len(self._slots), dtype=np.int64)
        told = {0: self._root}
        for here in range(level):
            after = np.full_like(nodes, NOBODY)
            for node in range(2**here - 1, 2 ** (here + 1) - 1):
                if split[node] and node in told:
                    children = self._children(nodes == node, right[:, node])
                    after[children[0]], after[children[1]] = 2 * node + 1, 2 * node + 2
                    told[2 * node + 1] = told[2 * node + 2] = self._divided(told[node], children)
            nodes = after
        return nodes, self._told_slots(nodes, told)

    def _children(self, inside: Mask, right: Mask) -> list[Mask]:
        """Divide the rows of a node, or leave them together where too few would be apart."""
        children = [inside & ~right, inside & right]
        sizes = [int(child.sum()) for child in children]
        if 0 < min(sizes) < self._smallest:
            few = int(sizes[1] <= sizes[0])
            children[1 - few], children[few] = inside, np.zeros_like(inside)
        return children

    def _divided(self, groups: list[Groups], parts: list[Mask]) -> list[Groups]:
        """Return by feature what is told apart in every part, among what was."""
        if self._smallest <= 1:
            return groups
        found = []
        for place, own in enumerate(groups):
            counts = [np.bincount(self._slots[part, place], minlength=self._width).tolist() for part in parts]
            if self._categorical[place]:
                found.append([[slot] for slot in told_apart([slot for (slot,) in own], counts, self._smallest)])
            else:
                found.append(merged(own, counts, self._smallest))
        return found

    def _told_slots(self, nodes: Numbers, told: dict[int, list[Groups]]) -> Numbers:
        """Return the slot at which each value is told."""
        slots = self._slots.copy()
        if self._smallest <= 1:
            return slots
        for node in np.unique(nodes[nodes >= 0]).tolist():
            rows = np.flatnonzero(nodes == node)
            for place, groups in enumerate(told[node]):
                slots[rows, place] = self._table(groups, categorical=bool(self._categorical[place]))[slots[rows, place]]
        return slots

    def _table(self, groups: Groups, *, categorical: bool) -> Numbers:
        """Return for each slot the one at which it is told."""
        missing, together = self._width - 1, self._width - SPARE
        table = np.arange(self._width)
        if categorical:
            table[[slot for slot in range(self._width) if [slot] not in groups]] = together
            return table
        for group in groups:
            numbers = [slot for slot in group if slot != missing]
            table[group] = middle(numbers) if numbers else missing
        return table
