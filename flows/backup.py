"""``wardround coordinator backup``: all that a coordinator needs to go on elsewhere, consistent, while it works.

In this order, which is that of a restore that goes on:

1. **the journals**, each with the weights of its store as they are at the same instant. A journal names what is on
   the disk already, so whatever is taken after it has all that it names; only weights are dropped again, so they are
   held (hard links, in milliseconds) before the journal can go on.
2. **what does not change by itself**: settings, keys, passwords, deployed studies, evaluations.
3. **the databases**: the gateway's, MLflow's, Prefect's. A version may be there that the journal does not name yet:
   the training that goes on finds it by its round, and makes no second one.
4. **MLflow's files**: each is there before MLflow's database names it.

Left out: what hospitals own (`hospitals/`), what passes through the gateway (`exchange/`: asked for again), and what
is made again (logs, caches, templates).
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from components.backups import Backup, BackupFile, BackupFolder, Head, Kind
from components.errors import ServiceError, StorageError
from components.exchange.protocol import PROTOCOL
from components.files import storage_errors
from components.gateway.database import SCHEMA
from components.journal import verify
from flows.coordinator import CoordinatorConfig, read_coordinator
from flows.database_secrets import SERVERS
from flows.database_templates import copy_database
from flows.local_databases import running_postgres
from flows.local_record import DATABASE, POSTGRESQL, SQLITE, federation_folder, recorded_database
from flows.version import code_version

JOURNAL = "journal.jsonl"
STAGE = ".backup"
_AT_REST_WITHIN = 100  # times that the weights are held until the journal did not grow meanwhile
# Of the coordinator's folder: what is somebody else's, passes through, is made again, or is taken in another way.
_LEFT = frozenset({
    STAGE, "hospitals", "exchange", "stores", "builder", "home", "mlflow", "up.json", "parts.json", "up.lock",
    "heartbeat", "postgresql/data", "postgresql/log",
})  # fmt: skip
_COMPOSE_DUMP = "docker compose exec -T postgresql pg_dumpall -U postgres > databases.sql"


@dataclass(frozen=True)
class Made:
    """A backup that was made.

    Attributes:
        backup: Its manifest.
        new_bytes: How much of it no earlier backup had.
    """

    backup: Backup
    new_bytes: int


@dataclass
class _Taken:
    """What was taken in so far."""

    into: BackupFolder
    known: dict[str, BackupFile]
    files: list[BackupFile] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)
    journals: dict[str, Head] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def take(self, source: Path, path: str) -> None:
        """Take a file in; one that went away meanwhile is not in the backup."""
        found = self.into.put(source, path, self.known)
        if found is not None:
            self.files.append(found)

    def take_all(self, root: Path, path: str, left: frozenset[str] = frozenset()) -> None:
        """Take in the files below a folder, but not what is left out, logs, locks, databases and unfinished files."""
        if not root.is_dir():
            return
        self.folders[path] = root.stat().st_mode & 0o777
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
            if entry.name in left or _is_passing(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                inner = frozenset(name.partition("/")[2] for name in left if name.startswith(f"{entry.name}/"))
                self.take_all(Path(entry.path), f"{path}/{entry.name}", inner)
            elif entry.is_file(follow_symlinks=False):
                self.take(Path(entry.path), f"{path}/{entry.name}")


def back_up(home: Path, coordinator: Path, into: Path, *, keep: int | None = None) -> Made:
    """Make a backup of a coordinator, which may be at work.

    Args:
        home: Folder of everything recorded.
        coordinator: The coordinator's folder.
        into: The folder of backups.
        keep: How many backups stay there, this one included; None drops none.

    Raises:
        StorageError: If something cannot be read or written, or a journal is damaged. Then there is no such backup.
        ServiceError: If a database cannot be reached.
    """
    home, coordinator, into = home.absolute(), coordinator.absolute(), into.absolute()
    config = read_coordinator(coordinator)
    if any(into == own or into.is_relative_to(own) for own in (home, coordinator)):
        raise StorageError(f"{into} is in the home itself: give a folder elsewhere, best on another disk")
    folder = BackupFolder(into)
    with folder.held(), _stage(coordinator) as stage:
        made = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        known = {file.path: file for file in folder.read().files} if folder.made() else {}
        taken = _Taken(folder, known)
        _take_journals(taken, home, coordinator, stage)
        taken.take_all(coordinator, "coordinator", _LEFT | {_sqlite_name(config, coordinator)})
        _take_databases(taken, home, coordinator, config, stage)
        for root, path in ((home / "artifacts", "home/artifacts"), (coordinator / "mlflow", "coordinator/mlflow")):
            taken.take_all(root, path)
        backup = Backup(
            made=made, wardround=code_version(), protocol=PROTOCOL, schema_version=SCHEMA,
            federation=config.federation, home=str(home), coordinator=str(coordinator),
            database=_kind(home, coordinator), journals=taken.journals, files=taken.files,
            folders=taken.folders, left_out=taken.left_out,
        )  # fmt: skip
        folder.write(backup)
        if keep is not None:
            folder.forget(keep)
    had = {file.sha256 for file in known.values()}
    return Made(backup, sum(file.bytes for file in taken.files if file.sha256 not in had))


def _take_journals(taken: _Taken, home: Path, coordinator: Path, stage: Path) -> None:
    """Take each study's journal with the weights of that instant; then what the journals name beside them."""
    for path in sorted((home / "trainings").glob(f"*/{JOURNAL}")):
        study = path.parent.name
        store, held = coordinator / "stores" / study, stage / "stores" / study
        copied = _hold(path, store, held, stage / f"{study}.jsonl")
        found = verify(copied)
        taken.journals[study] = Head(lines=found.entries, hash=found.head)
        taken.take(copied, f"home/trainings/{study}/{JOURNAL}")
        taken.take_all(held, f"coordinator/stores/{study}")
    taken.take_all(home / "trainings", "home/trainings", frozenset(f"{study}/{JOURNAL}" for study in taken.journals))
    taken.take_all(home / "analyses", "home/analyses")


def _hold(journal: Path, store: Path, held: Path, copied: Path) -> Path:
    """Hold the weights of a store while its journal stands still, and copy the journal as it is then."""
    for _ in range(_AT_REST_WITHIN):
        size = journal.stat().st_size
        shutil.rmtree(held, ignore_errors=True)
        with storage_errors("hold", store):
            _link_all(store, held)
        if journal.stat().st_size == size:
            break
    else:
        raise StorageError(f"the journal of {journal.parent.name} does not stand still: back up again a little later")
    with storage_errors("back up", journal), open(journal, "rb") as whole:
        content = whole.read(size)
        copied.write_bytes(content[: content.rfind(b"\n") + 1])
    os.utime(copied, ns=(0, journal.stat().st_mtime_ns))
    copied.chmod(journal.stat().st_mode & 0o777)
    return copied


def _link_all(source: Path, target: Path) -> None:
    """Link every finished file below a folder; what goes away meanwhile is not linked."""
    for root, _, names in os.walk(source):
        into = target / Path(root).relative_to(source)
        into.mkdir(parents=True, exist_ok=True)
        into.chmod(Path(root).stat().st_mode & 0o777)
        for name in names:
            try:
                os.link(Path(root) / name, into / name)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.copy2(Path(root) / name, into / name)  # the stores are on a disk of their own


def _take_databases(taken: _Taken, home: Path, coordinator: Path, config: CoordinatorConfig, stage: Path) -> None:
    """Take the gateway's database, then MLflow's and Prefect's."""
    gateway = _sqlite_name(config, coordinator)
    if gateway:
        _take_sqlite(taken, coordinator / gateway, f"coordinator/{gateway}", stage)
    _take_sqlite(taken, home / "mlflow.db", "home/mlflow.db", stage)
    _take_sqlite(taken, home / "prefect" / "prefect.db", "home/prefect/prefect.db", stage)
    taken.take(home / "prefect" / "edition", "home/prefect/edition")
    if _kind(home, coordinator) == POSTGRESQL:
        passwords = coordinator / "databases"
        with running_postgres(home) as (postgres, port):
            for name in sorted(SERVERS):  # the gateway's comes first
                postgres.dump(name, port, passwords, stage / f"{name}.dump")
                taken.take(stage / f"{name}.dump", f"databases/{name}.dump")
    elif (coordinator / "compose.yaml").exists():
        taken.left_out.append(f"the databases of Docker: write them beside it, after it, with  {_COMPOSE_DUMP}")
    elif not _kind(home, coordinator):
        if not gateway:
            taken.left_out.append("the gateway's database: back up your PostgreSQL, after this, with  pg_dump -Fc")
        taken.left_out.append(f"your Prefect ({config.prefect_url}) and your MLflow ({config.mlflow_url or 'none'})")


def _take_sqlite(taken: _Taken, database: Path, path: str, stage: Path) -> None:
    """Take a SQLite database as it is at one instant, whoever writes to it."""
    if not database.exists():
        return
    copied = stage / database.name
    try:
        copy_database(database, copied)
    except sqlite3.Error as error:
        raise ServiceError(f"the database {database} cannot be copied: {error}") from error
    copied.chmod(database.stat().st_mode & 0o777)
    taken.take(copied, path)


def _kind(home: Path, coordinator: Path) -> Kind:
    """Return where the servers record, if they are this home's own; empty for servers of the operator's."""
    if coordinator != federation_folder(home) or not (coordinator / DATABASE).exists():
        return ""
    return "postgresql" if recorded_database(home) == POSTGRESQL else "sqlite"


def _sqlite_name(config: CoordinatorConfig, coordinator: Path) -> str:
    """Return the name of the gateway's SQLite file in the coordinator's folder; empty if it has none there."""
    kind, _, file = config.database.partition(":///")
    inside = kind == SQLITE and Path(file).absolute().parent == coordinator
    return Path(file).name if inside else ""


def _is_passing(name: str) -> bool:
    """Return whether a name is that of a log, a lock, an unfinished file or what SQLite keeps beside a database."""
    ends = (".log", ".log.1", ".lock", ".holder", "-wal", "-shm")
    return name.startswith(".tmp-") or name.endswith(ends)


@contextmanager
def _stage(coordinator: Path) -> Iterator[Path]:
    """Yield an empty folder on the disk of the stores; what a backup that was killed has left there goes."""
    stage = coordinator / STAGE
    shutil.rmtree(stage, ignore_errors=True)
    with storage_errors("write", stage):
        stage.mkdir(mode=0o700)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
