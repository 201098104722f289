"""The same through a real `mlflow server` on loopback, which serves the artifacts too."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from mlflow import MlflowClient
from torch import nn

from components.rounds import ItemCounts
from components.study import Study
from components.tracking.aliases import move_best, move_champion
from components.tracking.datasets import SiteDataset
from components.tracking.registry import Registry, Release
from components.tracking.runs import Tracker
from components.tracking.scoring import load_version


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, process: Any) -> None:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert process.poll() is None, "the process ended"
        try:
            if requests.get(address, timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


def end(process: Any) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder / "mlflow.db")
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    wait_for(f"http://127.0.0.1:{port}/health", process)
    yield f"http://127.0.0.1:{port}"
    end(process)


@pytest.fixture(scope="module")
def training(server: str, study: Study) -> Tracker:
    tracker = Tracker(server, experiment=study.study)
    tracker.start_training("first", study=study, params={"rounds.max": 2}, tags={})
    return tracker


def test_runs_and_data_are_recorded_once(server: str, training: Tracker, study: Study) -> None:
    counts = ItemCounts(expected=4, usable=3, quarantined=1)
    dataset = SiteDataset("north", "cd" * 32, counts, {"train": [2, 1]}, study.task.classes)
    for tracker in (training, Tracker(server, experiment=study.study)):
        tracker.start_training("first", study=study, params={"rounds.max": 2}, tags={})
        tracker.log_site_data(dataset)
        tracker.log_round(1, {"auroc": 0.5}, site="north")

    client = MlflowClient(server, server)
    child = client.get_run(tracker.site_run("north"))
    assert tracker.run_id == training.run_id == child.data.tags["mlflow.parentRunId"]
    assert len(child.inputs.dataset_inputs) == 1
    assert [point.step for point in client.get_metric_history(child.info.run_id, "auroc")] == [1]


def test_a_version_goes_the_whole_way(
    server: str, training: Tracker, release: Callable[..., Release], network: Callable[[int], nn.Module], study: Study
) -> None:
    registry, client = Registry(server), MlflowClient(server, server)
    for _ in range(2):
        version = registry.register(release(training, 1, 0.75))
        move_best(registry, version, metric="auroc", mode="max")
    move_champion(registry, study.study, training="first", metric="auroc", mode="max")

    assert version.version == 1
    model = client.get_logged_model(version.model_id)
    assert {(metric.key, metric.value, metric.step) for metric in model.metrics} == {
        ("auroc", 0.75, 1),
        ("loss", 0.25, 1),
    }
    assert len(client.get_metric_history(training.run_id, "auroc")) == 1
    assert json.loads(model.tags["mlflow.modelVersions"])[0]["name"] == study.study
    loaded = load_version(f"models:/{study.study}@champion", server)
    assert all(
        torch.equal(loaded.weights[name], value)
        for name, value in network(1).state_dict().items()
        if name in loaded.weights
    )


@pytest.mark.long
def test_mlflow_models_serve_answers_as_the_network(
    server: str, training: Tracker, release: Callable[..., Release], network: Callable[[int], nn.Module], study: Study
) -> None:
    Registry(server).register(release(training, 1, 0.75))
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1",
        "--port", str(port), "--workers", "1", "--model-uri", f"models:/{study.study}/1",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": server,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process)
        images = np.random.default_rng(1).random((2, 1, 6, 6), dtype=np.float32)
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json={"inputs": images.tolist()}, timeout=60)
    finally:
        end(process)
    expected = network(1)(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(answer.json()["predictions"], expected, atol=1e-5)
