"""Migrated, empty databases kept per edition, so that a fresh home starts without migrating.

Prefect's migrations take 6-10 s on a new SQLite file and MLflow's 3 s; copying a migrated file takes
milliseconds. The first start of an edition (a version, and for Prefect the collections whose block types
its database holds) migrates and keeps a copy in the user's cache folder
(``$XDG_CACHE_HOME/wardround``, by default ``~/.cache/wardround``); deleting that folder is always safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import closing, suppress
from importlib.metadata import EntryPoints, entry_points, version
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder of WardRound; it need not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root and Path(root).is_absolute() else Path.home() / ".cache") / "wardround"


def prefect_edition() -> str:
    """What a Prefect database depends on: Prefect's version, and the collections that add block types to it."""
    found = [(point.name, point.value, point.dist.version if point.dist else "") for point in _collections()]
    digest = hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()
    return f"prefect-{version('prefect')}-{digest[:12]}"


def mlflow_edition() -> str:
    """What an MLflow database depends on: MLflow's version."""
    return f"mlflow-{version('mlflow')}"


def _collections() -> EntryPoints:
    """The collections that Prefect loads."""
    return entry_points(group="prefect.collections")


def template_path(edition: str) -> Path:
    """Where the template of an edition is kept."""
    return cache_folder() / "databases" / f"{edition}.db"


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database through SQLite's backup interface; `target` appears whole or not at all.

    Raises:
        OSError: `target` cannot be written.
        sqlite3.Error: `source` is not a readable database.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        address = f"{source.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as reader, closing(sqlite3.connect(partial)) as writer:
            reader.backup(writer)
            # A copy in WAL mode could not be read from a cache that is read-only.
            writer.execute("PRAGMA journal_mode = DELETE")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def seed_database(target: Path, edition: str) -> bool:
    """Make `target` a copy of the edition's template, unless it exists already or there is no template.

    Returns:
        Whether `target` was made. An unreadable template counts as none: the caller migrates instead.
    """
    template = template_path(edition)
    if target.exists() or not template.exists():
        return False
    with suppress(OSError, sqlite3.Error):
        copy_database(template, target)
        return True
    return False


def keep_template(source: Path, edition: str) -> None:
    """Keep `source` as the edition's template; a cache folder that cannot be written is left alone."""
    with suppress(OSError, sqlite3.Error):
        copy_database(source, template_path(edition))
