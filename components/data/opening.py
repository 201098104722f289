"""One part of a site's data on its way from the disk to a tensor: find, decode or take from the cache, split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from components.data.cache import CachedImages, cache_file, load_images, store_images
from components.data.decode import decode
from components.data.hashes import FileHashes
from components.data.items import SiteItems, find_items, parse_split
from components.data.labels import Label, label_tensor, parse_label, stratum_of, unit_of
from components.data.listing import Row, read_rows
from components.data.npz import array_reasons, decode_arrays, read_arrays
from components.data.patients import read_patients
from components.data.quarantine import Quarantined, UnusableItemError
from components.data.records import content_of, encode_table, require_plausible_times
from components.data.splits import assign_splits, conflicting_patients
from components.errors import DataError
from components.rounds import Split
from components.site_source import SourcePart
from components.study import Data, Records, Study

_FORMAT = 1  # of the preprocessing: raised when the same settings would give other numbers


@dataclass(frozen=True)
class FoundItems:
    """The items of one part that are worth decoding, and those set aside before."""

    names: list[str]
    content: list[str]
    labels: list[Label]
    patients: list[str]
    named: list[Split | None]
    quarantined: list[Quarantined]
    expected: int
    decode: Callable[[], CachedImages]
    remarks: list[Quarantined] = field(default_factory=list)  # what else the hospital should know; no items


@dataclass(frozen=True)
class OpenedPart:
    """The usable items of one part.

    Attributes:
        images: float32 ``[N, C, *spatial]``.
        labels: int64 ``[N]``; float32 ``[N, K]`` for multilabel, ``[N, 2]`` (time, event) for survival.
        splits: The split of each.
        lines: One line of JSON per item with all that its digest stands for.
        quarantined: The items set aside, at any stage.
        expected: Items listed.
        decoded: Items decoded for this opening; 0 if all came from the cache.
        cache: The file that holds the decoded images.
        remarks: What else the quarantine list says; no items.
    """

    images: Tensor
    labels: Tensor
    splits: list[Split]
    lines: list[str]
    quarantined: list[Quarantined]
    expected: int
    decoded: int
    cache: Path
    remarks: list[Quarantined] = field(default_factory=list)


def find_part(study: Study, part: SourcePart, hashes: FileHashes) -> FoundItems:
    """Find the items of one part."""
    if study.data.records is not None:
        return _find_records(study, part, study.data.records)
    return _find_arrays(study, part, hashes) if part.kind == "npz" else _find_files(study, part, hashes)


def _find_files(study: Study, part: SourcePart, hashes: FileHashes) -> FoundItems:
    """Find the items of a folder's list."""
    folder, rows = Path(part.path), _listed_rows(study, part)
    found = find_items(rows, folder, study.task, hashes.of)
    items = found.items
    return FoundItems(
        names=[item.name for item in items],
        content=[item.content for item in items],
        labels=[item.label for item in items],
        patients=[item.patient for item in items],
        named=[item.split for item in items],
        quarantined=found.quarantined,
        expected=len(rows),
        decode=lambda: _decode_files(found, study.data),
    )


def _listed_rows(study: Study, part: SourcePart) -> list[Row]:
    """Read what a part lists."""
    return rows_of_part(read_rows(Path(part.path), study.data, f"site {part.site}"), part)


def rows_of_part(rows: list[Row], part: SourcePart) -> list[Row]:
    """Take the rows that are a part's own."""
    if part.rows is None:
        return rows
    if part.rows and part.rows[-1] >= len(rows):
        raise DataError(f"site {part.site}: the list has become shorter since the sites were cut from it; start anew")
    return [rows[row] for row in part.rows]


def _find_records(study: Study, part: SourcePart, records: Records) -> FoundItems:
    """Find the rows of a table of health records; those that cannot be used are set aside."""
    read = read_patients(Path(part.path), study.data, f"site {part.site}", unit=unit_of(study.task))
    rows, columns = rows_of_part(read.rows, part), records.encoded
    encoded = encode_table(rows, records, f"site {part.site}")
    quarantined, kept, labels, named = [], [], [], []
    require_plausible_times(rows, study.task, f"site {part.site}")
    for place, (row, values) in enumerate(zip(rows, encoded, strict=True)):
        try:
            if row.fault or isinstance(values, str):
                raise UnusableItemError(row.fault or str(values))
            label, split = parse_label(row.label, study.task), parse_split(row)
        except UnusableItemError as error:
            quarantined.append(Quarantined(row.name, error.reason))
            continue
        kept.append(place)
        labels.append(label)
        named.append(split)
    torn = conflicting_patients([rows[place].patient for place in kept], named)
    apart = [rows[place].patient in torn for place in kept]
    quarantined += [
        Quarantined(rows[place].name, "patient is in more than one split")
        for place, is_torn in zip(kept, apart, strict=True)
        if is_torn
    ]
    used = [index for index, is_torn in enumerate(apart) if not is_torn]
    chosen = [rows[kept[index]] for index in used]
    table = torch.tensor([encoded[kept[index]] for index in used], dtype=torch.float32)
    return FoundItems(
        names=[row.name for row in chosen],
        content=[content_of(row, columns) for row in chosen],
        labels=[labels[index] for index in used],
        patients=[row.patient for row in chosen],
        named=[named[index] for index in used],
        quarantined=quarantined,
        expected=len(rows),
        decode=lambda: CachedImages(table.reshape(len(used), len(columns)), {}),
        remarks=read.remarks,
    )


def _decode_files(found: SiteItems, data: Data) -> CachedImages:
    """Decode files one by one; each is usable or has its reason."""
    images = torch.empty(len(found.items), data.channels, *data.spatial_size)
    reasons: dict[int, str] = {}
    for place, item in enumerate(found.items):
        try:
            images[place - len(reasons)] = decode(item.files, data)
        except UnusableItemError as error:
            reasons[place] = error.reason
    return CachedImages(images[: len(found.items) - len(reasons)], reasons)


def _find_arrays(study: Study, part: SourcePart, hashes: FileHashes) -> FoundItems:
    """Find the rows of an npz file."""
    path = Path(part.path)
    arrays = read_arrays(path)
    rows = list(range(len(arrays.names))) if part.rows is None else part.rows
    if rows and rows[-1] >= len(arrays.names):
        raise DataError(
            f"site {part.site}: {path.name} has become shorter since the sites were cut from it; start anew"
        )
    reasons = array_reasons(arrays, rows, study.task)
    torn = conflicting_patients([arrays.patients[row] for row in rows], [arrays.splits[row] for row in rows])
    for place, row in enumerate(rows):
        if arrays.patients[row] in torn:
            reasons.setdefault(place, "patient is in more than one split")
    kept = [row for place, row in enumerate(rows) if place not in reasons]
    labels = arrays.labels[kept]
    multilabel = study.task.kind == "multilabel"
    kept_labels: list[Label] = [tuple(row) if multilabel else row[0] for row in labels.reshape(len(kept), -1).tolist()]
    content = hashes.of([path])
    return FoundItems(
        names=[arrays.names[row] for row in kept],
        content=[f"{content}:{row}" for row in kept],
        labels=kept_labels,
        patients=[arrays.patients[row] for row in kept],
        named=[arrays.splits[row] for row in kept],
        quarantined=[Quarantined(arrays.names[rows[place]], reason) for place, reason in sorted(reasons.items())],
        expected=len(rows),
        decode=lambda: decode_arrays(path, kept, study.data),
    )


def open_part(study: Study, found: FoundItems, site: str, folder: Path) -> OpenedPart:
    """Decode what was found, or take it from the cache, and split the usable items."""
    path = cache_file(folder, digest_lines([preprocessing_text(study.data), *found.content]))
    cached = load_images(path)
    decoded = 0
    if cached is None or len(cached.images) + len(cached.reasons) != len(found.names):
        cached = found.decode()
        decoded = len(found.names)
        store_images(path, cached)
    kept = [place for place in range(len(found.names)) if place not in cached.reasons]
    labels = label_tensor([found.labels[place] for place in kept], study.task)
    patients = [found.patients[place] for place in kept]
    named = [found.named[place] for place in kept]
    strata = [stratum_of(found.labels[place], study.task) for place in kept]
    splits = assign_splits(patients, strata, named, fractions=study.data.splits, seed=study.seed)
    lines = [
        json.dumps([site, found.content[place], found.labels[place], patient, split])
        for place, patient, split in zip(kept, patients, splits, strict=True)
    ]
    undecodable = [Quarantined(found.names[place], reason) for place, reason in sorted(cached.reasons.items())]
    return OpenedPart(
        cached.images, labels, splits, lines, [*found.quarantined, *undecodable], found.expected, decoded, path,
        found.remarks,
    )  # fmt: skip


def preprocessing_text(data: Data) -> str:
    """Return all settings that decide an item's decoded values, as canonical JSON."""
    settings = data.model_dump(mode="json", include={"spatial_size", "channels", "modality", "intensity", "window"})
    if data.records is not None:
        settings = {"records": data.records.model_dump(mode="json")}
    return json.dumps({"format": _FORMAT, **settings}, sort_keys=True)


def digest_lines(lines: list[str]) -> str:
    """Return the SHA-256 of lines of text."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()
