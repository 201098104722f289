"""Items a site cannot use, each with its reason; the list stays at the hospital."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import StorageError

QUARANTINE_FILE = "quarantine.csv"
DAMAGED = "cannot be read: truncated, damaged, or of a kind that is not supported"


class UnusableItemError(Exception):
    """One item cannot be used; `reason` is short and holds nothing that was read from the item.

    Caught where a site's items are decoded: the item is quarantined and the others go on.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Quarantined:
    """An item set aside.

    Attributes:
        file: The item as its list names it (or an array's name and row).
        reason: Why, in a few words, without patient data.
    """

    file: str
    reason: str


def summarise(quarantined: Sequence[Quarantined], most: int = 4) -> str:
    """Count the reasons, the most frequent first; fit to leave the hospital.

    >>> summarise([Quarantined("a.png", "missing label"), Quarantined("b.png", "missing label")])
    '2 x missing label'
    """
    counted = Counter(item.reason for item in quarantined).most_common()
    text = ", ".join(f"{count} x {reason}" for reason, count in counted[:most])
    rest = sum(count for _, count in counted[most:])
    return f"{text}, {rest} more" if rest else text


def write_quarantine(state: Path, quarantined: Sequence[Quarantined]) -> Path:
    """Write ``quarantine.csv`` (columns file, reason) into the site's state folder, replacing the last one.

    Args:
        state: The site's own folder for what it keeps; made if it is not there.
        quarantined: The items set aside; with none of them the file holds its header only.

    Returns:
        The file written. It is whole at any moment: a temporary file is renamed over it.

    Raises:
        StorageError: If the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["file", "reason"])
    writer.writerows([item.file, item.reason] for item in quarantined)
    path = state / QUARANTINE_FILE
    temporary = state / f".{QUARANTINE_FILE}.{os.getpid()}"
    try:
        state.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape", newline="")
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {QUARANTINE_FILE} into the site's state folder ({error.strerror}): "
            "make room on the disk or give this user the right to write there"
        ) from error
    return path
