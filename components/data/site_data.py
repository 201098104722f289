"""A site's data, opened: found, gated, decoded or taken from the cache, split by patient."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from components.data.batches import EvaluationBatches, TrainBatches
from components.data.cache import sweep
from components.data.hashes import FileHashes
from components.data.labels import class_counts
from components.data.opening import digest_lines, find_part, open_part, preprocessing_text
from components.data.quarantine import Quarantined, summarise, write_quarantine
from components.data.splits import SPLITS
from components.errors import DataError
from components.principal import most_products
from components.rounds import ItemCounts, Split
from components.site_source import SiteSource
from components.study import Arm, Data, Records, Study, Task
from components.table_sums import TableSums, feature_sums
from components.wide_sums import wide_sums


class SiteData:
    """One site's usable items, decoded, preprocessed and split by patient.

    Args:
        study: The study.
        images: float32 ``[N, C, *spatial]``, all splits; of a table float32 ``[N, F]``, with NaN for what is missing.
        labels: int64 ``[N]``; float32 ``[N, K]`` for multilabel, ``[N, 2]`` (time, event) for survival.
        splits: The split of each item.
        counts: Items expected, usable and quarantined.
        digest: See the attribute.
        decoded: See the attribute.

    Attributes:
        counts: Items expected, usable and quarantined.
        digest: SHA-256 over the usable items' content, labels, patients and splits, in order, and over
            the preprocessing: equal digests mean equal training data.
        class_counts: Per split, the items of each class (in multilabel, an item counts for each it has).
        decoded: Items that had to be decoded for this opening; 0 if all came from the cache.
    """

    def __init__(
        self,
        study: Study,
        images: Tensor,
        labels: Tensor,
        *,
        splits: list[Split],
        counts: ItemCounts,
        digest: str = "",
        decoded: int = 0,
    ) -> None:
        self.counts = counts
        self.digest = digest
        self.decoded = decoded
        self._augment = tuple(study.data.augment)
        self._images = images
        self._labels = labels
        self._rows: dict[Split, Tensor] = {
            split: torch.tensor([row for row, own in enumerate(splits) if own == split], dtype=torch.int64)
            for split in SPLITS
        }
        self.class_counts = {split: class_counts(labels[rows], study.task) for split, rows in self._rows.items()}

    def images(self, split: Split) -> Tensor:
        """Return a copy of one split's images: float32 ``[N, C, *spatial]``, preprocessed, not augmented."""
        return self._images[self._rows[split]]

    def labels(self, split: Split) -> Tensor:
        """Return one split's labels, of the kind that the class was given."""
        return self._labels[self._rows[split]]

    def size(self, split: Split) -> int:
        """Return the number of items in one split."""
        return len(self._rows[split])

    def table_sums(self, records: Records, *, binned: bool = False) -> TableSums:
        """Return what may be told of the training rows of a table, by feature; `binned` as of `feature_sums`."""
        rows = self.images("train").double()
        sums = {
            feature.name: feature_sums(feature, rows[:, place].tolist(), records.smallest_cell, binned=binned)
            for place, feature in enumerate(records.features if records.wide else records.encoded)
        }
        if records.wide is None:
            return TableSums(features=sums)
        labels = self.labels("train").numpy() if records.wide.keep is not None else None
        wide = wide_sums(rows[:, len(records.features) :].numpy(), labels, records.smallest_cell)
        return TableSums(features=sums, wide=wide)

    def train_batches(self, *, batch_size: int, seed: int, balanced: bool = False) -> TrainBatches:
        """Return the training items in batches; order, draws and augmentation are functions of `seed`.

        Args:
            batch_size: Items per batch; the last one of a pass may be smaller.
            seed: For example of study, site and round, so that a resumed round draws the same.
            balanced: Draw each class equally often.
        """
        return TrainBatches(
            self._images, self._labels, self._rows["train"],
            batch_size=batch_size, seed=seed, balanced=balanced, kinds=self._augment,
        )  # fmt: skip

    def evaluation_batches(self, split: Split, *, batch_size: int) -> EvaluationBatches:
        """Return one split in batches, in the order of the items, not augmented."""
        return EvaluationBatches(self._images, self._labels, self._rows[split], batch_size)


def open_site_data(study: Study, source: SiteSource, state: Path) -> SiteData:
    """Open a site's data: find its items, set aside what is unusable, decode or take from the cache, split.

    Args:
        study: The study.
        source: Where the items are.
        state: The site's own folder for what it keeps. ``quarantine.csv`` (file, reason) is written
            there, also when the data is then refused; decoded images go into ``cache/``.

    Returns:
        The site's data. Opened again with the same content and settings, nothing is decoded.

    Raises:
        DataError: If the site lists no items, too few are usable, none are for training, or they are
            all of one class. The message is fit to leave the hospital.
        StorageError: If the state folder cannot be written.
    """
    folder = state / "cache"
    hashes = FileHashes(folder)
    opened = [open_part(study, find_part(study, part, hashes), part.site, folder) for part in source.parts]
    hashes.save()
    sweep(folder, {part.cache for part in opened})
    quarantined = [item for part in opened for item in part.quarantined]
    write_quarantine(state, [*quarantined, *(remark for part in opened for remark in part.remarks)])
    expected, usable = sum(part.expected for part in opened), sum(len(part.splits) for part in opened)
    counts = ItemCounts(expected=expected, usable=usable, quarantined=len(quarantined))
    _check_gate(source.name, counts, quarantined, study.data)
    data = SiteData(
        study,
        opened[0].images if len(opened) == 1 else torch.cat([part.images for part in opened]),
        torch.cat([part.labels for part in opened]),
        splits=[split for part in opened for split in part.splits],
        counts=counts,
        digest=digest_lines([preprocessing_text(study.data), *(line for part in opened for line in part.lines)]),
        decoded=sum(part.decoded for part in opened),
    )
    _check_classes(source.name, data, study.task)
    if study.data.records is not None and study.data.records.arm is not None:
        _check_arms(source.name, data, study.data.records.arm)
    if study.data.records is not None and study.data.records.wide is not None:
        _check_rows(source.name, data.size("train"), study.data.records.wide.components or 0)
    return data


def _check_gate(site: str, counts: ItemCounts, quarantined: list[Quarantined], data: Data) -> None:
    """Refuse a site of which too little can be used."""
    if counts.expected == 0:
        raise DataError(f"site {site} has no items: give it some, or leave it out of the study")
    fraction = counts.usable / counts.expected
    if counts.usable and fraction >= data.minimum_usable_fraction:
        return
    hint = ""
    if any(item.reason == "missing patient" for item in quarantined):
        hint = "; if every item is a patient of its own, say so with an empty data.columns.patient"
    raise DataError(
        f"site {site}: {counts.usable} of {counts.expected} items can be used ({fraction:.2f}, the study asks for at "
        f"least {data.minimum_usable_fraction:g}): {summarise(quarantined)}. quarantine.csv in the site's state folder "
        f"lists them: correct them, or lower data.minimum_usable_fraction{hint}"
    )


def _check_classes(site: str, data: SiteData, task: Task) -> None:
    """Refuse a site from which nothing can be learned."""
    train = data.class_counts["train"]
    items = data.size("train")
    if not items:
        raise DataError(f"site {site} has no training items: the splits its list names leave none")
    if task.survival is not None:
        _check_events(site, train, task.survival.loss)
        return
    seen = [name for name, count in zip(task.classes, train, strict=True) if count]
    varied = any(0 < count < items for count in train) if task.kind == "multilabel" else len(seen) > 1
    if not varied:
        raise DataError(
            f"site {site}: its {items} training items are all of one class ({', '.join(seen) or 'none'}), so there is "
            "nothing to tell apart; check the labels, or leave the site out"
        )


def _check_events(site: str, outcomes: list[int], loss: str) -> None:
    """Refuse a site without an event where only events say anything."""
    if loss == "cox" and not outcomes[1]:
        raise DataError(
            f"site {site}: no event was seen in its {outcomes[0]} training items, and a partial likelihood learns from "
            "events only; check the column of events, leave the site out, or choose task.survival.loss: hazards, which "
            "learns from times without events as well"
        )


def _check_arms(site: str, data: SiteData, arm: Arm) -> None:
    """Refuse a site where all patients were given the same treatment."""
    given = set(data.images("train")[:, -1].int().tolist())
    if len(given) < 2:
        only = given.pop()
        raise DataError(
            f"site {site}: all of its {data.size('train')} training patients have the arm {arm.levels[only]} (column "
            f"{arm.column}), so nothing says what {arm.levels[1 - only]} does there; check the column, or leave the "
            "site out"
        )


def _check_rows(site: str, rows: int, components: int) -> None:
    """Refuse a site that cannot tell enough for as many principal components."""
    if components and most_products(rows) < components:
        raise DataError(
            f"site {site}: its {rows} training rows are too few for {components} principal components: a site tells "
            "fewer products of each column than it has rows; lower data.records.wide.components, or leave the site out"
        )
