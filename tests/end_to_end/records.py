"""What MLflow and Prefect hold after a training, asked through their own interfaces."""

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from flows.embedded_prefect import EmbeddedPrefect
from tests.end_to_end.ward import Ward
from tests.references.tiny_study import STUDY


@dataclass(frozen=True)
class PrefectRecords:
    """What a Prefect server answers about a home."""

    api_url: str

    def find(self, kind: str) -> list[dict[str, Any]]:
        """All records of a kind: ``flow_runs``, ``task_runs``, ``artifacts``."""
        request = urllib.request.Request(
            f"{self.api_url}/{kind}/filter", data=json.dumps({"limit": 200}).encode(),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found


@contextmanager
def prefect_records(ward: Ward) -> Iterator[PrefectRecords]:
    """Serve a home's Prefect database while inside."""
    with serve_prefect(ward.home) as records:
        yield records


@contextmanager
def serve_prefect(home: Path) -> Iterator[PrefectRecords]:
    """Serve a home's Prefect database while inside, or ask the server that does so already."""
    with EmbeddedPrefect.start(home, ui=False) as server:
        yield PrefectRecords(server.wait_ready(120).api_url)


def mlflow_client(ward: Ward) -> MlflowClient:
    return MlflowClient(ward.mlflow_uri, ward.mlflow_uri)


def run_states(ward: Ward) -> set[str]:
    """The states that the runs of a home are in; none if MLflow was never reached."""
    if not (ward.home / "mlflow.db").exists():
        return set()
    client = mlflow_client(ward)
    return {run.info.status for run in client.search_runs([item.experiment_id for item in client.search_experiments()])}


def recorded(ward: Ward) -> dict[str, object]:
    """All that must be the same however often a training was disturbed; clock times are left out."""
    client = mlflow_client(ward)
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    versions = sorted(client.search_model_versions(f"name = '{STUDY}'"), key=lambda version: int(version.version))
    model = client.get_registered_model(STUDY)
    kinds = [(run.data.tags["wardround.role"], run.data.tags.get("wardround.site", "")) for run in runs]
    clocks = ("_s", "seconds")
    return {
        "runs": sorted(kinds),
        "ended": {run.info.status for run in runs},
        "metrics": sorted(
            (*kind, key, value if not key.endswith(clocks) else "")
            for kind, run in zip(kinds, runs, strict=True)
            for key, value in run.data.metrics.items()
        ),
        "versions": [(v.version, v.tags["wardround.round"], v.tags["wardround.weights_digest"]) for v in versions],
        "models": len(client.search_logged_models([item.experiment_id for item in client.search_experiments()])),
        "aliases": model.aliases,
    }
