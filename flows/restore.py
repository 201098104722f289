"""``wardround coordinator restore``: a backup into an empty home, whole or not at all.

What the backup does not have, it does not bring back in silence: open invitations are void (they may have been used
since), each journal gets a line that says it was restored, and a hospital that has seen later rounds than the journal
knows refuses them (`components.exchange.signed.require_newer`).
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from components.backups import Backup, BackupFolder
from components.errors import StorageError
from components.exchange.protocol import PROTOCOL
from components.files import make_folder, storage_errors, write_whole
from components.gateway.database import SCHEMA, Database
from components.gateway.sites import Sites
from components.journal import Journal
from flows.backup import JOURNAL
from flows.compose import make_state
from flows.coordinator import FILE, GATEWAY_FILE
from flows.database_secrets import SERVERS, database_url
from flows.local_databases import started_postgres
from flows.local_postgres import LocalPostgres, find_postgres
from flows.local_record import POSTGRESQL, federation_folder
from flows.version import code_version

DRAFT = ".restoring"
_OURS = ("federation", "trainings", "analyses", "artifacts", "mlflow.db", "prefect")


@dataclass(frozen=True)
class _Places:
    """Where a backup goes: its drafts first."""

    home: Path
    coordinator: Path

    @property
    def drafts(self) -> tuple[Path, Path]:
        """Where home and coordinator lie until all of it is there."""
        if self.coordinator == federation_folder(self.home):
            return self.home / DRAFT, self.home / DRAFT / "federation"
        return self.home / DRAFT, self.coordinator / DRAFT

    def of(self, path: str) -> Path:
        """Return where a file of the backup lies in the draft."""
        root, _, rest = path.partition("/")
        home, coordinator = self.drafts
        return {"home": home, "coordinator": coordinator, "databases": coordinator / "dumps"}[root] / rest


def restore(source: Path, home: Path, coordinator: Path, *, made: str = "") -> Backup:
    """Restore a backup.

    Args:
        source: The folder of backups.
        home: The home; nothing of a coordinator may be in it.
        coordinator: The coordinator's folder; likewise.
        made: Name of the backup; the newest where none is named.

    Returns:
        What was restored.

    Raises:
        StorageError: If a content is missing or damaged, a folder is not empty, or a newer WardRound made it.
        ServiceError: If PostgreSQL is not installed here, or does not take its dump.
    """
    folder, places = BackupFolder(source), _Places(home.absolute(), coordinator.absolute())
    backup = folder.read(made)
    _require_known(backup)
    _require_empty(places)
    folder.check(backup)
    postgres = None
    try:
        with storage_errors("write", places.home):
            for draft in places.drafts:
                shutil.rmtree(draft, ignore_errors=True)
            for draft in places.drafts:
                make_folder(draft.parent)
                draft.mkdir(mode=0o711, exist_ok=True)
            if backup.database == POSTGRESQL:  # it may not be installed: told before anything is copied
                postgres = find_postgres(places.drafts[1] / "postgresql")
            for path in sorted(backup.folders):
                places.of(path).mkdir(parents=True, exist_ok=True)
            for file in backup.files:
                target = places.of(file.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.fetch(file, target)
            for path, mode in backup.folders.items():
                places.of(path).chmod(mode)
        _move_addresses(backup, places)
        _open_databases(backup, places, postgres)
        _note(backup, places)
        _put_in_place(places)
        if (places.coordinator / "compose.yaml").exists():
            make_state(places.coordinator)
        make_folder(places.coordinator / "exchange")
    finally:
        for draft in places.drafts:
            shutil.rmtree(draft, ignore_errors=True)
    return backup


def _require_known(backup: Backup) -> None:
    """Refuse what a newer WardRound made."""
    if backup.protocol > PROTOCOL or backup.schema_version > SCHEMA:
        raise StorageError(
            f"the backup {backup.made} was made by WardRound {backup.wardround} (protocol {backup.protocol}, tables "
            f"{backup.schema_version}); this is WardRound {code_version()} (protocol {PROTOCOL}, tables {SCHEMA}): "
            "restore it with that version"
        )


def _require_empty(places: _Places) -> None:
    """Refuse to restore over anything."""
    ours = [places.home / name for name in _OURS]
    if places.coordinator.exists():
        ours += [path for path in places.coordinator.iterdir() if path.name != DRAFT]
    found = [path for path in ours if _holds_anything(path)]
    if found:
        raise StorageError(f"{found[0]} is there already: restore into an empty home (--home), nothing is overwritten")


def _holds_anything(path: Path) -> bool:
    """Return whether there is a file at, or anywhere below, a path; what a restore was interrupted over is none."""
    if not path.is_dir():
        return path.exists()
    return any(below.is_file() for below in path.rglob("*") if DRAFT not in below.parts)


def _move_addresses(backup: Backup, places: _Places) -> None:
    """Have what names a file in the old home name it in the new one."""
    moved = [(backup.coordinator, str(places.coordinator)), (backup.home, str(places.home))]
    for path in (places.drafts[1] / FILE, places.drafts[1] / GATEWAY_FILE):
        if path.exists():
            content = json.loads(path.read_text())
            write_whole(path, json.dumps(_moved(content, moved), indent=2).encode())
    database = places.drafts[0] / "mlflow.db"
    if database.exists():
        _move_artifacts(database, f"{backup.home}/", f"{places.home}/")


def _moved(value: object, moved: list[tuple[str, str]]) -> object:
    """Return JSON with the texts moved that are, or hold, the path of an old folder."""
    if isinstance(value, dict):
        return {name: _moved(part, moved) for name, part in value.items()}
    if isinstance(value, str):
        for old, new in moved:
            if f"{old}/" in value:
                return value.replace(f"{old}/", f"{new}/")
    return value


def _move_artifacts(database: Path, old: str, new: str) -> None:
    """Have MLflow's SQLite name its files in the new home: it holds whole paths, as file addresses or plain."""
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            named = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            for (table,) in connection.execute(named).fetchall():
                for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                    if "CHAR" not in kind.upper() and "TEXT" not in kind.upper():
                        continue
                    for prefix in ("file://", ""):
                        connection.execute(
                            f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '  # noqa: S608 - its own
                            f'WHERE substr("{column}", 1, ?) = ?',
                            (prefix + new, len(prefix + old) + 1, len(prefix + old), prefix + old),
                        )
    except sqlite3.Error as error:
        raise StorageError(f"the backup's {database.name} cannot be used: {error}") from error


def _open_databases(backup: Backup, places: _Places, postgres: LocalPostgres | None) -> None:
    """Load the dumps, and let no invitation of before be used."""
    draft = places.drafts[1]
    if postgres is not None:
        passwords = draft / "databases"
        postgres.make(passwords)
        with started_postgres(postgres) as port:
            postgres.make_databases(port, passwords)
            for name in SERVERS:
                postgres.load(name, port, passwords, places.of(f"databases/{name}.dump"))
            _void_invitations(database_url("gateway", host="127.0.0.1", port=port, passwords=passwords))
        shutil.rmtree(draft / "dumps")
        return
    for file in backup.files:
        if file.path == "coordinator/gateway.db":
            _void_invitations(f"sqlite:///{places.of(file.path)}")


def _void_invitations(url: str) -> None:
    database = Database(url)
    Sites(database).void_invitations()
    database.close()


def _note(backup: Backup, places: _Places) -> None:
    """Say in each journal that it was restored, and from what."""
    for study, head in sorted(backup.journals.items()):
        with Journal.open(places.of(f"home/trainings/{study}/{JOURNAL}")) as journal:
            journal.append("restored", backup=backup.made, lines=head.lines, head=head.hash, by=code_version())


def _put_in_place(places: _Places) -> None:
    """Move the drafts to where they belong."""
    for draft in places.drafts:
        with storage_errors("write", draft.parent):
            for path in sorted(draft.iterdir()) if draft.exists() and draft.name == DRAFT else ():
                target = draft.parent / path.name
                for empty in sorted(target.rglob("*"), reverse=True) if target.is_dir() else ():
                    empty.rmdir()
                if target.is_dir():
                    target.rmdir()
                path.rename(target)
