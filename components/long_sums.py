"""What is too long for a line of the journal: a site's sums over thousands of columns, and the columns' names.

They lie in files beside the journal, whose digests its lines have::

    <training>/sums/<digest>.json       what a site told, `components.table_sums.TableSums`
    <training>/study.json               the study, whole

Of studies whose sums and names are few nothing lies there, and the lines have all.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.dispatch import Preparation
from components.errors import StorageError
from components.files import storage_errors, write_whole
from components.study import Study
from components.table_sums import TableSums

LONG = 16 << 10  # bytes; a line takes 1 MiB, for all sites together


def put_aside(folder: Path, found: Preparation) -> Preparation:
    """Return what a site found as a line of the journal takes it; long sums are written into a file, durably.

    Args:
        folder: The training's folder, beside the journal.
        found: What the site found.

    Raises:
        StorageError: If the file cannot be written.
    """
    sums = found.sums
    text = sums.model_dump_json().encode() if sums is not None and sums.wide is not None else b""
    if len(text) <= LONG:
        return found
    digest = hashlib.sha256(text).hexdigest()
    with storage_errors("write", path := _sums_path(folder, digest)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    return found.model_copy(update={"sums": None, "sums_file": digest})


def put_back(folder: Path, found: Preparation) -> Preparation:
    """Return what a site found, with its sums.

    Raises:
        StorageError: If their file is missing, or not what the journal says.
    """
    if not found.sums_file:
        return found
    with storage_errors("read", path := _sums_path(folder, found.sums_file)):
        text = path.read_bytes()
    if hashlib.sha256(text).hexdigest() != found.sums_file:
        raise StorageError(f"{path.name} is not what the journal says it was: restore it from a backup")
    try:
        sums = TableSums.model_validate_json(text)
    except ValidationError as error:
        raise StorageError(f"{path.name} has a form that is not known here: run the version that wrote it") from error
    return found.model_copy(update={"sums": sums, "sums_file": ""})


def short_study(folder: Path, study: Study) -> dict[str, Any]:
    """Return a study as a line of the journal takes it; with long names of columns it is written whole into a file.

    Raises:
        StorageError: If the file cannot be written.
    """
    plain: dict[str, Any] = study.model_dump(mode="json")
    wide = study.data.records.wide if study.data.records is not None else None
    if wide is None or len(json.dumps(wide.columns)) <= LONG:
        return plain
    with storage_errors("write", path := folder / "study.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(plain, sort_keys=True).encode())
    plain["data"]["records"]["wide"]["columns"] = [f"{len(wide.columns)} names, in {path.name}"]
    return plain


def _sums_path(folder: Path, digest: str) -> Path:
    return folder / "sums" / f"{digest}.json"
