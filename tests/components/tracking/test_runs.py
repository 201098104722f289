import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.errors import ServiceError
from components.rounds import ItemCounts
from components.study import Study
from components.tracking.datasets import SiteDataset
from components.tracking.runs import Tracker


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri, uri)


@pytest.fixture
def dataset() -> SiteDataset:
    return SiteDataset(
        site="north",
        digest="ab" * 32,
        counts=ItemCounts(expected=12, usable=10, quarantined=2),
        class_counts={"train": [5, 2], "test": [2, 1]},
        classes=["normal", "ill"],
        note="folder at the site",
    )


def points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def test_parent_run_says_what_was_trained(
    open_tracker: Callable[[], Tracker], client: MlflowClient, study: Study
) -> None:
    run = client.get_run(open_tracker().run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"rounds.max": "3"}
    assert run.data.tags["wardround.study_digest"] == study.digest
    assert run.data.tags["wardround.role"] == "training"


def test_note_leads_to_the_flow_run(uri: str, study: Study, tmp_path: Path, client: MlflowClient) -> None:
    tracker = Tracker(uri, experiment=study.study, artifact_root=tmp_path / "artifacts")
    address = "http://127.0.0.1:4200/runs/flow-run/1"
    run_id = tracker.start_training("first", study=study, params={}, tags={"wardround.prefect_url": address})
    run = client.get_run(run_id)
    assert f"({address})" in run.data.tags["mlflow.note.content"]
    assert run.data.tags["wardround.prefect_url"] == address


def test_site_run_is_a_child_of_the_training(open_tracker: Callable[[], Tracker], client: MlflowClient) -> None:
    tracker = open_tracker()
    run = client.get_run(tracker.site_run("north"))
    assert run.data.tags["mlflow.parentRunId"] == tracker.run_id
    assert run.data.tags["wardround.site"] == "north"


def test_a_new_process_finds_the_same_runs(open_tracker: Callable[[], Tracker], client: MlflowClient) -> None:
    first = open_tracker()
    child = first.site_run("north")
    second = open_tracker()
    assert (second.run_id, second.site_run("north")) == (first.run_id, child)
    assert len(client.search_runs([first.experiment_id])) == 2


def test_a_killed_run_is_taken_up_again(open_tracker: Callable[[], Tracker], client: MlflowClient) -> None:
    first = open_tracker()
    child = first.site_run("north")
    first.finish("KILLED", "interrupted by the user")
    assert client.get_run(first.run_id).info.status == "KILLED"

    second = open_tracker()
    second.site_run("north")
    assert client.get_run(first.run_id).info.status == "RUNNING"
    assert client.get_run(child).info.status == "RUNNING"


def test_metrics_have_the_round_as_step(open_tracker: Callable[[], Tracker], client: MlflowClient) -> None:
    tracker = open_tracker()
    tracker.log_round(1, {"auroc": 0.7}, site="north")
    tracker.log_round(2, {"auroc": 0.8}, site="north")
    assert points(client, tracker.site_run("north"), "auroc") == [(1, 0.7), (2, 0.8)]


def test_no_metric_is_recorded_twice_by_one_process(open_tracker: Callable[[], Tracker], client: MlflowClient) -> None:
    tracker = open_tracker()
    tracker.log_round(1, {"seconds": 2.0})
    tracker.log_round(1, {"seconds": 3.0})
    assert points(client, tracker.run_id, "seconds") == [(1, 2.0)]


def test_no_metric_is_recorded_twice_after_a_crash(open_tracker: Callable[[], Tracker], client: MlflowClient) -> None:
    open_tracker().log_round(1, {"auroc": 0.7}, site="north")
    second = open_tracker()
    second.log_round(1, {"auroc": 0.6, "loss": 0.5}, site="north")  # the crash came between the two metrics
    second.log_round(2, {"auroc": 0.8, "loss": 0.4}, site="north")
    assert points(client, second.site_run("north"), "auroc") == [(1, 0.7), (2, 0.8)]
    assert points(client, second.site_run("north"), "loss") == [(1, 0.5), (2, 0.4)]


def test_values_that_are_not_finite_are_left_out(open_tracker: Callable[[], Tracker], client: MlflowClient) -> None:
    tracker = open_tracker()
    tracker.log_round(1, {"auroc": float("nan"), "loss": 0.5})
    assert set(client.get_run(tracker.run_id).data.metrics) == {"loss"}


def test_data_of_a_site_is_recorded_once_without_rows(
    open_tracker: Callable[[], Tracker], client: MlflowClient, dataset: SiteDataset
) -> None:
    tracker = open_tracker()
    tracker.log_site_data(dataset)
    open_tracker().log_site_data(dataset)
    for run_id in (tracker.run_id, tracker.site_run("north")):
        (recorded,) = client.get_run(run_id).inputs.dataset_inputs
        assert recorded.dataset.digest == dataset.digest[:36]
        assert json.loads(recorded.dataset.profile) == {
            "sha256": dataset.digest,
            "expected": 12,
            "usable": 10,
            "quarantined": 2,
            "classes": {"train": {"normal": 5, "ill": 2}, "test": {"normal": 2, "ill": 1}},
        }


def test_finish_ends_children_of_an_earlier_process_too(
    open_tracker: Callable[[], Tracker], client: MlflowClient
) -> None:
    first = open_tracker()
    first.site_run("north")
    second = open_tracker()
    second.site_run("south")
    second.finish("FINISHED")
    runs = client.search_runs([second.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3


def test_a_training_left_behind_can_be_ended(
    open_tracker: Callable[[], Tracker], study: Study, client: MlflowClient
) -> None:
    left = open_tracker()
    left.site_run("north")
    other = open_tracker()
    other.start_training("second", study=study, params={}, tags={})
    assert other.end_training("first", "KILLED") == 2
    assert client.get_run(left.run_id).info.status == "KILLED"
    assert client.get_run(other.run_id).info.status == "RUNNING"


def test_parameters_of_a_resumed_training_keep_their_values(
    open_tracker: Callable[[], Tracker], uri: str, study: Study, tmp_path: Path, client: MlflowClient
) -> None:
    run_id = open_tracker().run_id
    tracker = Tracker(uri, experiment=study.study)
    tracker.start_training("first", study=study, params={"rounds.max": 9, "seed": 1}, tags={})
    assert client.get_run(run_id).data.params == {"rounds.max": "3", "seed": "1"}


def test_files_are_kept_with_the_run(open_tracker: Callable[[], Tracker], client: MlflowClient, tmp_path: Path) -> None:
    tracker = open_tracker()
    tracker.log_bytes("figures/roc.png", b"\x89PNG")
    tracker.log_text("report.html", "<p>ü</p>")
    assert {item.path for item in client.list_artifacts(tracker.run_id)} == {"figures", "report.html", "study.json"}
    kept = client.download_artifacts(tracker.run_id, "figures/roc.png", str(tmp_path))
    assert Path(kept).read_bytes() == b"\x89PNG"


def test_a_deleted_experiment_is_named_with_the_way_back(
    open_tracker: Callable[[], Tracker], client: MlflowClient
) -> None:
    experiment_id = open_tracker().experiment_id
    client.delete_experiment(experiment_id)
    with pytest.raises(ServiceError, match=f"mlflow experiments restore -x {experiment_id}"):
        open_tracker()


def test_nothing_is_recorded_before_a_training_is_open(uri: str) -> None:
    with pytest.raises(ValueError, match="call start_training first"):
        Tracker(uri, experiment="study").log_round(1, {"loss": 1.0})


def test_a_training_name_cannot_change_the_search(uri: str, study: Study) -> None:
    tracker = Tracker(uri, experiment="study")
    with pytest.raises(ValueError, match="letters, digits"):
        tracker.start_training("x' OR 'a' = 'a", study=study, params={}, tags={})
