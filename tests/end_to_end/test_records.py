"""What a training leaves: in MLflow, in Prefect, beside the journal; each readable through its own interface."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.end_to_end.records import PrefectRecords, prefect_records
from tests.end_to_end.ward import Ward
from tests.references.tiny_study import STUDY, tiny_study

pytestmark = pytest.mark.timeout(1500)
SITES = ["site-1", "site-2", "site-3"]
USABLE = {"site-1": 90, "site-2": 54, "site-3": 36}
LATER = {"test", "test_pooled_data"}


@pytest.fixture
def training(undisturbed: Ward) -> str:
    (started,) = undisturbed.events("training_started")
    return str(started.data["training"])


@pytest.fixture
def runs(mlflow: MlflowClient) -> dict[str, Run]:
    """All runs, by the site, the training's own by an empty name."""
    experiment = mlflow.get_experiment_by_name(STUDY)
    assert experiment is not None
    return {run.data.tags.get("wardround.site", ""): run for run in mlflow.search_runs([experiment.experiment_id])}


def png(path: str) -> bool:
    return Path(path).read_bytes().startswith(b"\x89PNG")


def test_a_training_has_a_parent_run_and_a_child_run_for_each_site(runs: dict[str, Run], training: str) -> None:
    assert sorted(runs) == ["", *SITES]
    parent = runs[""]
    assert parent.info.run_name == training
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {runs[site].data.tags["mlflow.parentRunId"] for site in SITES} == {parent.info.run_id}
    assert parent.data.params["strategy"] == "FedAvg"
    assert parent.data.tags["wardround.study_digest"] == tiny_study(evaluate={"compare": ["local", "pooled"]}).digest


def test_a_sites_data_is_a_dataset_with_counts_and_no_rows(runs: dict[str, Run]) -> None:
    for site in SITES:
        (item,) = runs[site].inputs.dataset_inputs
        profile = json.loads(item.dataset.profile)
        assert item.dataset.digest
        assert str(USABLE[site]) in json.dumps(profile)
        assert len(json.dumps(profile)) < 2000
    assert len(runs[""].inputs.dataset_inputs) == 3


def test_metrics_by_round_are_steps(mlflow: MlflowClient, runs: dict[str, Run]) -> None:
    for site, run in runs.items():
        for metric in ("validation/auroc", "validation/auroc_low", "validation/auroc_high", "validation/auroc_support"):
            assert [point.step for point in mlflow.get_metric_history(run.info.run_id, metric)] == [1, 2, 3], site
    assert [p.step for p in mlflow.get_metric_history(runs["site-1"].info.run_id, "training/loss")] == [1, 2, 3]


def test_each_round_is_a_version_with_its_lineage(mlflow: MlflowClient, undisturbed: Ward, training: str) -> None:
    versions = {int(v.version): v for v in mlflow.search_model_versions(f"name = '{STUDY}'")}
    assert sorted(versions) == [1, 2, 3]
    for number, version in versions.items():
        tags = version.tags
        assert tags["wardround.round"] == str(number)
        assert tags["wardround.training"] == training
        assert tags["wardround.base_version"] == (str(number - 1) if number > 1 else "initial weights")
        assert tags["wardround.weights_digest"] == undisturbed.digests()[number]
        assert tags["wardround.roster"] == tags["wardround.took_part"] == ", ".join(SITES)
        assert json.loads(tags["wardround.items"])["site-1"] == {"used": 90, "expected": 90}
        assert {"wardround.strategy", "wardround.study_digest", "wardround.code_version"} <= tags.keys()


def test_a_versions_metrics_hang_on_its_own_logged_model(mlflow: MlflowClient, undisturbed: Ward) -> None:
    (finished,) = undisturbed.events("training_finished")
    for version in mlflow.search_model_versions(f"name = '{STUDY}'"):
        model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
        assert model.model_type == "federated"
        (auroc,) = [metric for metric in model.metrics if metric.key == "validation/auroc"]
        (evaluated,) = undisturbed.events("evaluated", round=int(version.tags["wardround.round"]))
        assert auroc.value == evaluated.data["metrics"]["auroc"]
        splits = {metric.key.partition("/")[0] for metric in model.metrics}
        best = int(version.version) == finished.data["version"]
        assert splits == {"validation"} | (LATER if best else set())
    assert undisturbed.recorded_twice() == []


def test_a_versions_files_hold_weights_program_study_and_figures(mlflow: MlflowClient, tmp_path: Path) -> None:
    version = mlflow.get_model_version(STUDY, "3")
    model_id = version.source.removeprefix("models:/")
    found = {item.path for item in mlflow.list_logged_model_artifacts(model_id)}
    assert {"MLmodel", "weights.safetensors", "manifest.json", "study.json", "preprocessing.json", "figures"} <= found
    assert any(item.path.endswith(".pt2") for item in mlflow.list_logged_model_artifacts(model_id, "data"))
    figures = mlflow.list_logged_model_artifacts(model_id, "figures")
    assert {Path(item.path).name for item in figures} == {"roc.png", "calibration.png"}


def test_aliases_stand_where_their_rules_say(mlflow: MlflowClient, undisturbed: Ward) -> None:
    values = {e.data["round"]: e.data["metrics"]["auroc"] for e in undisturbed.events("evaluated")}
    best = max(values, key=lambda number: (values[number], -number))
    assert mlflow.get_registered_model(STUDY).aliases == {"best": best, "champion": best}
    assert int(mlflow.get_model_version_by_alias(STUDY, "latest").version) == 3


def test_figures_and_a_self_contained_report_are_kept(
    mlflow: MlflowClient, runs: dict[str, Run], undisturbed: Ward, training: str
) -> None:
    run_id = runs[""].info.run_id
    names = {Path(item.path).name for item in mlflow.list_artifacts(run_id, "figures")}
    assert names == {
        "convergence.png", "participation.png", "test_roc.png", "test_calibration.png", "comparison.png",
    }  # fmt: skip
    assert all(png(mlflow.download_artifacts(run_id, f"figures/{name}")) for name in names)
    report = Path(mlflow.download_artifacts(run_id, "report.html")).read_text()
    assert report == (undisturbed.home / "trainings" / STUDY / training / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#|http://127\.0\.0\.1)', report)
    assert all(site in report for site in SITES)


def test_prefect_shows_the_training_and_its_rounds_by_name(prefect: PrefectRecords, training: str) -> None:
    names = {run["name"]: run for run in prefect.find("flow_runs")}
    assert sorted(names) == sorted([training, *(f"round {number} of {training}" for number in (1, 2, 3))])
    assert {run["state"]["type"] for run in names.values()} == {"COMPLETED"}
    parents = [names[f"round {number} of {training}"]["parent_task_run_id"] for number in (1, 2, 3)]
    assert all(parents)


def test_prefect_shows_tasks_a_person_can_read(prefect: PrefectRecords) -> None:
    names = {task["name"] for task in prefect.find("task_runs")}
    expected = {
        *(f"train at {site}" for site in SITES),
        *(f"evaluate round {number} everywhere" for number in (1, 2, 3)),
        *(f"{what} round {number}" for what in ("aggregate", "register") for number in (1, 2, 3)),
        "compare with local and pooled",
    }
    assert expected <= names
    assert {task["state"]["type"] for task in prefect.find("task_runs")} == {"COMPLETED"}


def test_prefect_has_an_artifact_for_each_round_and_one_of_progress(prefect: PrefectRecords, training: str) -> None:
    artifacts = prefect.find("artifacts")
    tables: dict[str, Any] = {item["key"]: item["data"] for item in artifacts if item["type"] == "markdown"}
    assert sorted(tables) == [f"round-{number}-of-{training}" for number in (1, 2, 3)]
    assert "## Round 2: version 2" in tables[f"round-2-of-{training}"]
    assert "| site-1 | yes | 90 | 90 |" in tables[f"round-2-of-{training}"]
    assert "| auroc |" in tables[f"round-2-of-{training}"]
    (progress,) = [item for item in artifacts if item["type"] == "progress"]
    assert progress["data"] == 100.0


def test_the_progress_of_a_training_that_converged_before_its_last_round_is_whole(tmp_path: Path) -> None:
    ward = Ward.make(tmp_path, rounds={"max": 6, "convergence": {"metric": "auroc", "patience": 1, "min_delta": 0.9}})
    ward.run("--dispatcher", "processes:2")
    assert len(ward.events("committed")) < 6
    with prefect_records(ward) as records:
        assert [item["data"] for item in records.find("artifacts") if item["type"] == "progress"] == [100.0]


def test_links_lead_both_ways(
    mlflow: MlflowClient, runs: dict[str, Run], prefect: PrefectRecords, training: str
) -> None:
    (flow_run,) = [run for run in prefect.find("flow_runs") if run["name"] == training]
    assert runs[""].data.tags["wardround.prefect_run"] == flow_run["id"]
    assert "wardround.prefect_url" not in runs[""].data.tags  # the embedded server has another port each time
    assert flow_run["id"] in runs[""].data.tags["mlflow.note.content"]
    table = next(item["data"] for item in prefect.find("artifacts") if item["key"] == f"round-2-of-{training}")
    assert f"/#/models/{STUDY}/versions/2)" in table


def test_the_journal_tells_the_training_in_order(undisturbed: Ward) -> None:
    events = [entry.event for entry in undisturbed.journal()]
    first = [events.index(name) for name in ("training_started", "round_planned", "update_received", "aggregated")]
    last = [events.index(name) for name in ("evaluated", "committed", "tested", "compared", "training_finished")]
    assert first + last == sorted(first + last)
    assert [events.count(name) for name in ("round_planned", "update_received", "committed")] == [3, 9, 3]
    undisturbed.verify_journals()
