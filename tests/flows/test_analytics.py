"""``wardround analyse``: from a study file and folders to tables, figures, a report and an MLflow run."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from lifelines import CoxPHFitter
from mlflow import MlflowClient

from flows.embedded_prefect import EmbeddedPrefect
from tests.command_line import Finished, Run
from tests.components.analytics.hospitals import patients, write_hospitals


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A home whose Prefect server stays, so that the next command need not wait."""
    home = tmp_path_factory.mktemp("home")
    with EmbeddedPrefect.start(home) as server:
        server.wait_ready(120)
        yield home, server.api_url


def rows_of(finished: Finished, table: str) -> list[dict[str, str]]:
    report = Path(finished.out.rsplit("Report: ", 1)[1].strip())
    return list(csv.DictReader((report.parent / "tables" / f"{table}.csv").read_text().splitlines()))


def test_an_analysis_ends_in_tables_figures_a_report_and_a_run(
    wardround: Run, tmp_path: Path, served: tuple[Path, str]
) -> None:
    home, prefect = served
    study = write_hospitals(tmp_path / "trial")
    finished = wardround("simulate", str(study), "--home", str(home))
    assert finished.code == 0, finished.err
    assert "3 sites. Disclosure control: no number from fewer than 5 patients" in finished.out

    import pandas as pd

    frames = [patients(seed, 150).assign(site=seed) for seed in range(3)]
    pooled = pd.concat(frames)
    rows = pd.DataFrame({"drug": pooled["arm"] == "drug", "age": pooled["age"], "II": pooled["stage"] == "II",
                         "III": pooled["stage"] == "III"}).astype(float)  # fmt: skip
    rows = rows.assign(time=pooled["time"], died=pooled["died"], site=pooled["site"])
    fitted = CoxPHFitter().fit(rows, "time", "died", strata=["site"], fit_options={"precision": 1e-12})
    for row, value, error in zip(rows_of(finished, "cox"), fitted.params_, fitted.standard_errors_, strict=True):
        assert float(row["coefficient"]) == pytest.approx(value, abs=1e-6)
        assert float(row["error"]) == pytest.approx(error, abs=1e-6)

    report = Path(finished.out.rsplit("Report: ", 1)[1].strip())
    page = report.read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 3
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("trial-trial")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["cox/arm_drug/hazard_ratio"] == pytest.approx(math.exp(fitted.params_["drug"]), abs=1e-6)
    kept = {
        item.path for folder in ("", "tables", "figures") for item in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"report.html", "study.json", "tables/cox.csv", "tables/table1.csv", "figures/survival.png"} <= kept

    runs = httpx.post(f"{prefect}/task_runs/filter", json={"limit": 200}).json()
    names = {item["name"] for item in runs if item["state_type"] == "COMPLETED"}
    assert {"east: summary", "north: exits", "west: Cox regression: step 1", "west: meta-analysis"} <= names
    assert not any(item["state_type"] == "FAILED" for item in runs)

    journal = [json.loads(line) for line in (home / "analytics" / "east" / "questions.jsonl").read_text().splitlines()]
    asked = [entry["data"]["kind"] for entry in journal if entry["event"] == "question"]
    assert asked[:3] == ["summary", "exits", "logrank"]
    again = wardround("simulate", str(study), "--home", str(home))
    assert again.code == 0, again.err
    assert len((home / "analytics" / "east" / "questions.jsonl").read_text().splitlines()) == len(journal)


def test_a_table_that_is_wrong_at_two_sites_is_told_for_both(
    wardround: Run, tmp_path: Path, served: tuple[Path, str]
) -> None:
    study = write_hospitals(
        tmp_path / "wrong",
        north=lambda frame: frame.drop(columns="age"),
        west=lambda frame: frame.assign(died=frame["died"] + 1),
    )
    finished = wardround("simulate", str(study), "--home", str(served[0]))
    assert finished.code == 3
    assert "north: the table has no column age; it has arm, died, stage, time" in finished.err
    assert "west: column died must hold 0 (censored), 1 (event) and nothing else" in finished.err
    assert "east" not in finished.err


def test_a_cohort_made_to_tell_of_one_patient_is_withheld(
    wardround: Run, tmp_path: Path, served: tuple[Path, str]
) -> None:
    def one_old(frame: "object") -> "object":
        frame["age"] = frame["age"].clip(upper=80)  # type: ignore[index]
        frame.loc[frame.index[0], "age"] = 95  # type: ignore[attr-defined]
        return frame

    study = write_hospitals(tmp_path / "attack", east=one_old)
    home = tmp_path / "other-home"
    assert wardround("simulate", str(study), "--home", str(home)).code == 0
    changed = yaml.safe_load(study.read_text())
    changed["analysis"]["cohort"] = [{"column": "age", "below": 90.0}]
    study.write_text(yaml.safe_dump(changed))
    finished = wardround("simulate", str(study), "--home", str(home))
    assert finished.code == 0, finished.err
    assert (
        "Cox regression: robust errors, meta-analysis, pooled effect: without east: the cohort differs from"
        in finished.out
    )


def test_check_knows_both_kinds_of_study(wardround: Run) -> None:
    finished = wardround("check", str(Path(__file__).parents[2] / "studies" / "trial.yaml"))
    assert finished.code == 0
    assert "is a sound study: trial" in finished.out


def test_schema_of_an_analysis_knows_its_sections(wardround: Run) -> None:
    finished = wardround("schema", "--analysis")
    assert finished.code == 0
    schema = json.loads(finished.out)
    assert {"analysis", "attendance", "sites"} <= schema["properties"].keys()
    assert "smallest_cell" in schema["$defs"]["Disclosure"]["properties"]


def test_without_a_federation_it_is_told_how_to_have_one_or_to_do_without(wardround: Run, tmp_path: Path) -> None:
    study = write_hospitals(tmp_path / "trial")
    finished = wardround("analyse", str(study), "--home", str(tmp_path / "home"))
    assert finished.code == 6
    said = finished.err.replace("\n", " ")
    assert f"wardround up {study} starts one on this machine; wardround simulate {study} analyses without one" in said


def test_to_train_an_analysis_is_told_what_to_do_instead(wardround: Run, tmp_path: Path) -> None:
    study = write_hospitals(tmp_path / "trial")
    finished = wardround("train", str(study), "--home", str(tmp_path / "home"))
    assert finished.code == 2
    assert "it holds a section analysis, and trains nothing: wardround analyse" in finished.err.replace("\n", " ")
