"""Evaluations beside the journal: sums by model and site in a JSON file, whose digest the journal keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from components.errors import StorageError
from components.files import storage_errors, write_whole
from components.rounds import ScoreSums

SumsByModel = Mapping[str, Mapping[str, ScoreSums]]


def write_sums(path: Path, sums: SumsByModel) -> str:
    """Write sums, durably.

    Args:
        path: The file; its folder is made.
        sums: By model (``global``, ``local:SITE``, ``pooled``), then by site.

    Returns:
        SHA-256 of the file.

    Raises:
        StorageError: If it cannot be written.
    """
    plain = {model: {site: item.model_dump() for site, item in by_site.items()} for model, by_site in sums.items()}
    content = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    with storage_errors("write", path):
        write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def read_sums(path: Path, digest: str | None) -> dict[str, dict[str, ScoreSums]]:
    """Read sums back.

    Args:
        path: The file.
        digest: Its SHA-256, as the journal has it.

    Raises:
        StorageError: If it is missing or not what the journal says.
    """
    with storage_errors("read", path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise StorageError(f"{path.name} is not what the journal says it was: restore it from a backup")
    plain = json.loads(content)
    return {
        model: {site: ScoreSums.model_validate(item) for site, item in by_site.items()}
        for model, by_site in plain.items()
    }
