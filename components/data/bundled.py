"""Tables that come with another package, by name: kept as a CSV in the cache, so that they are read as any other."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from components.errors import DataError
from components.files import storage_errors, write_whole

PREFIX = "lifelines:"
INSTALL = "pip install lifelines"  # the extra `examples` brings no more
TABLES = ("GBSG2",)  # the German Breast Cancer Study Group's second trial, 686 women (Schumacher et al. 1994)


def lifelines_is_absent(table: str) -> str:
    """Say that a table needs lifelines, and how to have it."""
    return f"the table {table.removeprefix(PREFIX)} is one of lifelines', which is not installed here: {INSTALL}"


def bundled_table(name: str) -> Path:
    """Return the file of a table of lifelines', written into the user's cache folder once.

    Args:
        name: ``lifelines:GBSG2``.

    Raises:
        DataError: If there is no such name, or lifelines is not installed.
        StorageError: If the cache cannot be written.
    """
    table = name.removeprefix(PREFIX)
    if table not in TABLES:
        raise DataError(f"data.path {name!r}: there is no such table of lifelines' here; there are {', '.join(TABLES)}")
    try:
        from lifelines import datasets  # an extra: only example studies need it
    except ModuleNotFoundError:
        raise DataError(lifelines_is_absent(table)) from None
    import pooch  # type: ignore[import-untyped]  # the cache folder that known data sets are in, too

    frame: Any = {"GBSG2": datasets.load_gbsg2}[table]()
    content = str(frame.to_csv(index=False, lineterminator="\n")).encode()
    digest = hashlib.sha256(content).hexdigest()[:16]
    file = Path(pooch.os_cache("wardround")) / "tables" / f"{table}-{digest}.csv"
    if not file.is_file():
        with storage_errors("write", file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content)
    return file
