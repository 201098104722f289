"""From listed rows to items that are worth decoding; the others are quarantined with their reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.data.decode import slices_of
from components.data.labels import Label, parse_label
from components.data.listing import Row
from components.data.quarantine import Quarantined, UnusableItemError
from components.data.splits import SPLIT_NAMES, conflicting_patients
from components.rounds import Split
from components.study import Task


@dataclass(frozen=True)
class Item:
    """One item whose list entry is sound; its files are not read yet.

    Attributes:
        name: The item as listed.
        files: Its files, resolved, inside the site's folder.
        label: Class index, or 0/1 per class.
        patient: The patient.
        split: The split the source names, or None.
        content: SHA-256 of the files' bytes.
    """

    name: str
    files: tuple[Path, ...]
    label: Label
    patient: str
    split: Split | None
    content: str


@dataclass(frozen=True)
class SiteItems:
    """The items found at one site, before decoding."""

    items: list[Item]
    quarantined: list[Quarantined]


def find_items(rows: Sequence[Row], folder: Path, task: Task, hash_files: Callable[[Sequence[Path]], str]) -> SiteItems:
    """Check every row: label, patient, split, place of its files, duplicates.

    Args:
        rows: What the site lists.
        folder: The site's folder; files outside it (absolute paths, ``..``, links that lead out) are
            not touched.
        task: The study's task.
        hash_files: Returns the SHA-256 of the content of an item's files.

    Returns:
        The sound items, in the order of the rows, and the others with their reasons. An item listed
        twice, or under two names with the same content, counts once, unless label or patient
        contradict each other: then none of them is used. A patient whom the list puts into two splits
        is not used.
    """
    items: list[Item] = []
    quarantined: list[Quarantined] = []
    root = folder.resolve()
    for row in rows:
        try:
            items.append(_check_row(row, root, task, hash_files))
        except UnusableItemError as error:
            quarantined.append(Quarantined(row.name, error.reason))
        except FileNotFoundError:
            quarantined.append(Quarantined(row.name, "file is missing"))
        except (OSError, ValueError):  # ValueError: a NUL in a path
            quarantined.append(Quarantined(row.name, "file cannot be opened"))
    items = _leave_out(items, _duplicates(items), quarantined)
    torn = conflicting_patients([item.patient for item in items], [item.split for item in items])
    torn_items = {
        index: "patient is in more than one split" for index, item in enumerate(items) if item.patient in torn
    }
    return SiteItems(_leave_out(items, torn_items, quarantined), quarantined)


def _check_row(row: Row, root: Path, task: Task, hash_files: Callable[[Sequence[Path]], str]) -> Item:
    """Turn one row into an item, or say why not."""
    if not row.name:
        raise UnusableItemError("no file named")
    label, split = parse_label(row.label, task), parse_split(row)
    files = tuple(path for name in row.files for path in _files_inside(root, name))
    if not files:
        raise UnusableItemError("series folder without slices")
    if not all(path.stat().st_size for path in files):
        raise UnusableItemError("empty file")
    return Item(row.name, files, label, row.patient, split, hash_files(files))


def parse_split(row: Row) -> Split | None:
    """Return the split that a row names, if it names one.

    Raises:
        UnusableItemError: If it names no split that there is, or no patient.
    """
    if not row.patient:
        raise UnusableItemError("missing patient")
    split = SPLIT_NAMES.get(row.split.lower())
    if row.split and split is None:
        raise UnusableItemError("split is none of train, validation and test")
    return split


def _files_inside(root: Path, name: str) -> list[Path]:
    """Resolve a listed path, and the slices in it if it is a folder; refuse what leads out of the site's folder."""
    listed = root / name
    found = slices_of(listed) if listed.resolve().is_relative_to(root) and listed.is_dir() else [listed]
    resolved = [path.resolve() for path in found]
    if not all(path.is_relative_to(root) for path in resolved):
        raise UnusableItemError("path leads out of the site's folder")
    if not all(path.is_file() for path in resolved):
        raise FileNotFoundError
    return resolved


def _duplicates(items: Sequence[Item]) -> dict[int, str]:
    """Find items with the same content: all but the first, or all of them if they contradict each other."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.content].append(index)
    reasons: dict[int, str] = {}
    for group in groups.values():
        if len({(items[index].label, items[index].patient, items[index].split) for index in group}) > 1:
            reasons.update(dict.fromkeys(group, "listed twice, with different labels, patients or splits"))
        else:
            reasons.update(dict.fromkeys(group[1:], "listed twice"))
    return reasons


def _leave_out(items: Sequence[Item], reasons: dict[int, str], quarantined: list[Quarantined]) -> list[Item]:
    """Move the items with a reason to the quarantine."""
    quarantined.extend(Quarantined(items[index].name, reason) for index, reason in sorted(reasons.items()))
    return [item for index, item in enumerate(items) if index not in reasons]
