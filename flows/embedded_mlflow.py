"""An MLflow server over one WardRound home, for its user interface; the training itself needs none."""

from __future__ import annotations

import os
from pathlib import Path

from flows.database_templates import mlflow_edition, seed_database
from flows.embedded_server import EmbeddedServer, ServerProgram, start_server

MLFLOW = ServerProgram("MLflow", "flows.embedded_mlflow_child", "", "/health", "mlflow-server", "--mlflow-port")


def start_mlflow_ui(home: Path, port: int = 0) -> EmbeddedServer:
    """Start MLflow's server for a home, or use the one that runs for it already; return at once.

    Args:
        home: The WardRound home that holds ``mlflow.db`` and ``artifacts``.
        port: TCP port on the loopback interface; 0 takes any free one.

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
    return start_server(MLFLOW, home / MLFLOW.folder, port=port, environment=environment, arguments=[str(home)])


def seed_mlflow(home: Path) -> bool:
    """Give a fresh home an already migrated MLflow database, if there is a template of it.

    Call it before the home's ``mlflow.db`` is first opened; it saves MLflow's migrations (1.5 to 3 s).

    Returns:
        Whether the file was made.
    """
    return seed_database(home.absolute() / "mlflow.db", mlflow_edition())
