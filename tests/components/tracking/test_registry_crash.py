"""kill -9 at each step of registering a round, then the same again."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.rounds import ServerState
from components.study import Study
from components.tracking.aliases import move_best
from components.tracking.package import Template
from components.tracking.registry import Registry, Release
from components.tracking.runs import Tracker

STEPS = [
    "registry.model_created",
    "registry.artifacts_written",
    "registry.metrics_recorded",
    "registry.version_created",
    "registry.alias_moved",
]


@pytest.fixture(scope="module")
def crashed(
    empty_database: Path,
    template: Template,
    state: Callable[[int], ServerState],
    study: Study,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[str, Release]]:
    """For each step: the address of a database in which a process was killed at it, and the release."""
    from components.tracking.package import write_package

    made, lines = {}, []
    root = tmp_path_factory.mktemp("crashes")
    package = write_package(template, root / "package", state(1), lineage={"round": 1})
    for step in STEPS:
        shutil.copy(empty_database, root / f"{step}.db")
        uri = f"sqlite:///{root / step}.db"
        tracker = Tracker(uri, experiment=study.study, artifact_root=root / step)
        run_id = tracker.start_training("first", study=study, params={}, tags={})
        made[step] = uri, Release(study.study, "first", 1, run_id, package, {"auroc": 0.5, "loss": 0.25})
        lines.append(json.dumps([step, uri, run_id, str(package.folder), package.weights_digest, package.digest]))
    child = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("crash_register.py"))],
        input="\n".join(lines), capture_output=True, text=True, timeout=240, check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert child.stdout.split() == [str(-signal.SIGKILL)] * len(STEPS), child.stderr
    return made


@pytest.mark.parametrize("step", STEPS)
def test_registering_again_after_a_crash_leaves_one_of_each(crashed: Any, step: str) -> None:
    uri, release = crashed[step]
    client, registry = MlflowClient(uri, uri), Registry(uri)

    version = registry.register(release)
    move_best(registry, version, metric="auroc", mode="max")

    (model,) = client.search_logged_models([client.get_run(release.run_id).info.experiment_id])
    (only,) = client.search_model_versions("name = 'tiny.study'")
    assert (int(only.version), only.source) == (1, f"models:/{model.model_id}")
    assert str(model.status) == "READY"
    assert sorted((metric.key, metric.value) for metric in model.metrics) == [("auroc", 0.5), ("loss", 0.25)]
    for key in ("auroc", "loss"):
        assert len(client.get_metric_history(release.run_id, key)) == 1
    assert registry.get_alias("tiny.study", "best") == version
    artifacts = {item.path for item in client.list_logged_model_artifacts(model.model_id)}
    assert {"MLmodel", "weights.safetensors", "manifest.json", "study.json"} <= artifacts
