"""An MLflow server over one WardRound home: for its user interface, and for a federation's trainings."""

from __future__ import annotations

import os
from pathlib import Path

from flows.database_templates import mlflow_edition, seed_database
from flows.embedded_server import EmbeddedServer, ServerProgram, start_server

MLFLOW = ServerProgram("MLflow", "flows.embedded_mlflow_child", "", "/health", "mlflow-server", "--mlflow-port")


def start_mlflow(
    home: Path, port: int = 0, *, database: str | None = None, edition: Path | None = None
) -> EmbeddedServer:
    """Start MLflow's server for a home, or use the one that runs for it already; return at once.

    Args:
        home: The WardRound home that holds ``mlflow.db`` and ``artifacts``.
        port: TCP port on the loopback interface; 0 takes any free one.
        database: Address of its PostgreSQL database; None is the home's ``mlflow.db``. With it, clients send and
            fetch files through the server alone.
        edition: File that says which version of MLflow made that database.

    Raises:
        ServiceError: The port is in use.
        StorageError: The home cannot be written.
    """
    home = home.absolute()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "_MLFLOW"))},
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "1",
    }
    arguments = [str(home), database, str(edition)] if database else [str(home)]
    return start_server(MLFLOW, home / MLFLOW.folder, port=port, environment=environment, arguments=arguments)


def seed_mlflow(home: Path) -> bool:
    """Give a fresh home an already migrated MLflow database, if there is a template of it.

    Call it before the home's ``mlflow.db`` is first opened; it saves MLflow's migrations (1.5 to 3 s).

    Returns:
        Whether the file was made.
    """
    return seed_database(home.absolute() / "mlflow.db", mlflow_edition())
