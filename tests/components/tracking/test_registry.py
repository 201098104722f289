import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from components.errors import StorageError
from components.study import Study
from components.tracking.package import Package
from components.tracking.registry import Registry, Release
from components.tracking.runs import Tracker


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri, uri)


def test_every_round_is_a_version_with_its_lineage(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release]
) -> None:
    tracker = open_tracker()
    versions = [registry.register(release(tracker, number)) for number in (1, 2)]
    assert [version.version for version in versions] == [1, 2]
    assert versions[1].tags["wardround.round_key"] == "first/2"
    assert versions[1].tags["wardround.strategy"] == "FedAvg"
    assert versions[1].run_id == tracker.run_id
    assert registry.versions("tiny.study", "first") == versions


def test_a_round_registered_twice_is_one_version(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], client: MlflowClient
) -> None:
    tracker = open_tracker()
    first = registry.register(release(tracker, 1))
    assert registry.register(release(tracker, 1)) == first
    assert len(client.search_model_versions("name = 'tiny.study'")) == 1
    assert len(client.search_logged_models([tracker.experiment_id])) == 1
    assert len(client.get_metric_history(tracker.run_id, "auroc")) == 1


def test_metrics_hang_on_the_logged_model_and_on_the_run(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], client: MlflowClient
) -> None:
    tracker = open_tracker()
    version = registry.register(release(tracker, 3, auroc=0.75))
    model = client.get_logged_model(version.model_id)
    assert {(metric.key, metric.value, metric.step) for metric in model.metrics} == {
        ("auroc", 0.75, 3),
        ("loss", 0.25, 3),
    }
    assert [(point.step, point.value) for point in client.get_metric_history(tracker.run_id, "auroc")] == [(3, 0.75)]
    assert version.metrics == {"auroc": 0.75, "loss": 0.25}


def test_logged_model_and_version_lead_to_each_other(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], client: MlflowClient
) -> None:
    version = registry.register(release(open_tracker(), 1))
    model = client.get_logged_model(version.model_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "tiny.study", "version": 1}]
    assert client.get_model_version("tiny.study", "1").source == f"models:/{version.model_id}"


def test_a_round_cannot_get_other_weights(
    open_tracker: Callable[[], Tracker], registry: Registry, package: Callable[..., Package]
) -> None:
    tracker = open_tracker()
    registry.register(Release("tiny.study", "first", 1, tracker.run_id, package(1)))
    with pytest.raises(StorageError, match=r"is registered as models:/tiny.study/1 with other weights"):
        registry.register(Release("tiny.study", "first", 1, tracker.run_id, package(1, seed=9)))


def test_files_of_a_half_made_model_are_replaced(
    open_tracker: Callable[[], Tracker],
    registry: Registry,
    package: Callable[..., Package],
    client: MlflowClient,
    tmp_path: Path,
) -> None:
    """A crash left a logged model with other files, and no version: the new files count."""
    tracker = open_tracker()
    half = Release("tiny.study", "first", 1, tracker.run_id, package(1, seed=9))
    model, _ = registry._open_model(half)
    registry._store_files(model, half)

    version = registry.register(Release("tiny.study", "first", 1, tracker.run_id, package(1)))

    assert version.model_id == model.model_id
    kept = client.get_logged_model(model.model_id)
    assert kept.tags["wardround.package_digest"] == package(1).digest == version.tags["wardround.package_digest"]


def test_metrics_that_reached_only_the_run_are_not_recorded_again(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], client: MlflowClient
) -> None:
    """MLflow records a batch on the run first and then on the model; a crash may come between."""
    wanted = release(open_tracker(), 1)
    registry._open_model(wanted)
    client.log_metric(wanted.run_id, "auroc", 0.5, timestamp=123, step=1)

    version = registry.register(wanted)

    assert len(client.get_metric_history(wanted.run_id, "auroc")) == 1
    recorded = client.get_logged_model(version.model_id).metrics
    assert {(metric.key, metric.value) for metric in recorded} == {("auroc", 0.5), ("loss", 0.25)}


def test_the_users_own_tracking_address_is_left_alone(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], tmp_path: Path
) -> None:
    mine = f"sqlite:///{tmp_path / 'mine.db'}"
    tracker = open_tracker()
    mlflow.set_tracking_uri(mine)
    registry.register(release(tracker, 1))
    assert mlflow.get_tracking_uri() == mine
    mlflow.set_tracking_uri(None)
    registry.register(release(tracker, 2))
    assert not mlflow.is_tracking_uri_set()


def test_two_trainings_of_a_study_share_one_model(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release], study: Study
) -> None:
    tracker = open_tracker()
    registry.register(release(tracker, 1))
    tracker.start_training("second", study=study, params={}, tags={})
    second = registry.register(release(tracker, 1, training="second"))
    assert second.version == 2
    assert [version.version for version in registry.versions("tiny.study", "second")] == [2]


def test_an_unknown_round_or_alias_is_none(
    registry: Registry, open_tracker: Callable[[], Tracker], release: Callable[..., Release]
) -> None:
    assert registry.find_by_round_key("tiny.study", "first/1") is None
    assert registry.get_alias("tiny.study", "champion") is None
    version = registry.register(release(open_tracker(), 1))
    assert registry.find_by_round_key("tiny.study", "first/1") == version
    assert registry.get_alias("tiny.study", "champion") is None
