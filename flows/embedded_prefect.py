"""A Prefect server of WardRound's own on this machine: nothing to install, nothing left running.

The parent's half: it imports neither prefect nor torch, so that a command can start the server first and
import while it starts. ``python -m flows.embedded_prefect --prepare`` makes the templates of
`flows.database_templates` ahead of time, as `make` does after installing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from flows.database_templates import cache_folder, keep_template, mlflow_edition, prefect_edition, template_path
from flows.embedded_server import EmbeddedServer, ServerProgram, start_server

PREFECT = ServerProgram("Prefect", "flows.embedded_prefect_child", "/api", "/api/health", "prefect", "--prefect-port")

# A user may make the embedded server talk more; every other PREFECT_* variable of the user's own is for
# other servers (an API address, a database, a profile) and must not reach this one.
_KEPT = frozenset({"PREFECT_SERVER_LOGGING_LEVEL", "PREFECT_LOGGING_SERVER_LEVEL", "PREFECT_DEBUG_MODE"})

# Services for schedules, workers, automations and concurrency leases: nothing of a simulation uses them,
# and each wakes up, reads the database and takes processor time from the training.
_UNUSED_SERVICES = (
    "SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "REPOSSESSOR", "CLEANUP_RECONCILER", "TRIGGERS",
)  # fmt: skip


class EmbeddedPrefect:
    """The Prefect server of one WardRound home."""

    @staticmethod
    def start(
        home: Path,
        *,
        ui: bool = True,
        port: int = 0,
        federation: bool = False,
        database: str | None = None,
        edition: Path | None = None,
    ) -> EmbeddedServer:
        """Start it as a child process, or use the one that runs for this home already; return at once.

        Args:
            home: The WardRound home; the server keeps its database and log in ``home/prefect``.
            ui: Whether it also serves Prefect's user interface.
            port: TCP port on the loopback interface; 0 takes any free one.
            federation: Whether it also runs the services for schedules and workers.
            database: Address of its PostgreSQL database; None is a SQLite file in its folder.
            edition: File that says which edition of Prefect made that database.

        Raises:
            ServiceError: The port is in use.
            StorageError: The home cannot be written.
        """
        folder = home.absolute() / PREFECT.folder
        environment = server_environment(folder, ui=ui, federation=federation, database=database)
        arguments = [str(edition)] if edition is not None else []
        return start_server(PREFECT, folder, port=port, environment=environment, arguments=arguments)


def server_environment(
    folder: Path, *, ui: bool, federation: bool = False, database: str | None = None
) -> dict[str, str]:
    """All environment variables of the server's process; ``{url}`` stands for its address.

    Args:
        folder: The server's own folder, absolute.
        ui: Whether it serves the user interface.
        federation: Whether it also runs the services for schedules and workers.
        database: Address of its PostgreSQL database; None is a SQLite file in its folder.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT") or name in _KEPT}
    unused: Sequence[str] = _UNUSED_SERVICES
    if federation:
        # On SQLite, a service that begins a second transaction inside of its first waits for itself for a minute.
        unused = () if database else [service for service in _UNUSED_SERVICES if service != "SCHEDULER"]
    services = {f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in unused}
    return {
        **inherited,
        **services,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": "{url}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        # Both are done when the database is made or its edition changes (see the child).
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
        "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A web page from elsewhere must not read the server through the user's browser.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "{url}",
        "PREFECT_SERVER_UI_ENABLED": str(ui).lower(),
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(_static_folder(folder)),
        # By default every event of a task is a transaction of its own.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_LOGGING_LEVEL": os.environ.get("PREFECT_SERVER_LOGGING_LEVEL", "WARNING"),
    }  # fmt: skip


def prepare_templates() -> list[Path]:
    """Make the migrated databases and the user interface's files of this version, where they are missing.

    Returns:
        The templates that are there now.
    """
    prefect, mlflow = template_path(prefect_edition()), template_path(mlflow_edition())
    with tempfile.TemporaryDirectory(prefix="wardround-") as home:
        if not prefect.exists():
            with EmbeddedPrefect.start(Path(home)) as server:
                server.wait_ready(180)
        if not mlflow.exists():
            # Takes seconds, and only this command needs it.
            from components.tracking.connection import prepare_database

            database = Path(home) / "mlflow.db"
            prepare_database(f"sqlite:///{database}")
            keep_template(database, mlflow_edition())
    return [path for path in (prefect, mlflow) if path.exists()]


def main() -> None:
    """Entry of ``python -m flows.embedded_prefect``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", action="store_true", required=True, help="make the templates and end")
    parser.parse_args()
    for path in prepare_templates():
        print(f"ready: {path}")


def _static_folder(folder: Path) -> Path:
    """Where Prefect unpacks its interface (17 MB): once per version in the cache, else in the server's folder."""
    shared = cache_folder() / f"prefect-ui-{version('prefect')}"
    try:
        shared.mkdir(parents=True, exist_ok=True)
    except OSError:
        return folder / "ui"
    return shared if os.access(shared, os.W_OK) else folder / "ui"


if __name__ == "__main__":
    main()
