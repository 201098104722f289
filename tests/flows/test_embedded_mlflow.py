"""The embedded MLflow server, as a process."""

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from flows.embedded_mlflow import seed_mlflow, start_mlflow


@pytest.mark.timeout(300)
def test_a_server_that_was_started_again_makes_a_version_of_a_model_before_anything_else_is_asked_of_it(
    tmp_path: Path,
) -> None:
    """It looks the model up in its own tables, which nothing has opened yet."""
    seed_mlflow(tmp_path)
    with start_mlflow(tmp_path) as server:
        client = MlflowClient(server.url, server.url)
        model = client.create_logged_model(client.create_experiment("chest"), name="round-1")
        client.create_registered_model("chest")
    with start_mlflow(tmp_path) as server:
        client = MlflowClient(server.url, server.url)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(server.url)  # where this end of it looks the model up
        try:
            made = client.create_model_version("chest", f"models:/{model.model_id}", model_id=model.model_id)
        finally:
            mlflow.set_tracking_uri(before)
    assert int(made.version) == 1
