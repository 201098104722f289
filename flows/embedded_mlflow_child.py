"""The process of the embedded MLflow server: ``python -m flows.embedded_mlflow_child``.

Does in one process what ``mlflow server --workers 1`` does in two: that command imports MLflow, then
starts uvicorn, which imports it again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.database_templates import mlflow_edition
from flows.embedded_child import begin, serve


def main(arguments: list[str]) -> None:
    """Serve until the last user is gone or SIGTERM arrives."""
    listener, _ = begin(arguments)
    home = Path(arguments[3])
    database, root = f"sqlite:///{home / 'mlflow.db'}", (home / "artifacts").as_uri()
    if len(arguments) > 4:
        database, root = arguments[4], "mlflow-artifacts:/"
        bring_up_to_date(database, Path(arguments[5]))
    # Heavy, and after the watch for the parent's end has begun.
    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = database
    # A server that has just started looks a logged model up here, before it was asked of anything else.
    os.environ["MLFLOW_TRACKING_URI"] = database
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = database
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = root
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = (home / "artifacts").as_uri()
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    from mlflow.server.fastapi_app import app

    serve(app, listener)


def bring_up_to_date(database: str, written_by: Path) -> None:
    """Make or migrate the tables of a PostgreSQL database.

    Args:
        database: Its address.
        written_by: File beside the database's data, which says the version that made its tables.
    """
    edition = mlflow_edition()
    if written_by.exists() and written_by.read_text() == edition:
        return
    import mlflow.db

    mlflow.db.upgrade.main([database], standalone_mode=False)
    written_by.write_text(edition)


if __name__ == "__main__":
    main(sys.argv[1:])
