"""The process of the embedded MLflow server: ``python -m flows.embedded_mlflow_child``.

Does in one process what ``mlflow server --workers 1`` does in two: that command imports MLflow, then
starts uvicorn, which imports it again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.embedded_child import begin, serve


def main(arguments: list[str]) -> None:
    """Serve until the last user is gone or SIGTERM arrives."""
    listener, _ = begin(arguments)
    home = Path(arguments[3])
    # Heavy, and after the watch for the parent's end has begun.
    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{home / 'mlflow.db'}"
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = f"sqlite:///{home / 'mlflow.db'}"
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = (home / "artifacts").as_uri()
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = (home / "artifacts").as_uri()
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    from mlflow.server.fastapi_app import app

    serve(app, listener)


if __name__ == "__main__":
    main(sys.argv[1:])
