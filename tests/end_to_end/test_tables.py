"""A tabular study from its file to the registered model, in simulation; and what is said where tables are wrong."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas
import pytest
import torch
from mlflow import MlflowClient
from rich.console import Console

from components.data.site_data import open_site_data
from components.data.sources import plan_sources
from components.errors import DataError, QuorumError
from components.journal import read
from components.ledger import trainings
from components.study_file import load_study
from components.sums_file import read_sums
from flows import api
from flows.prediction import predict_files
from flows.results import ALL_SITES, print_results, swapped
from flows.run import TrainingOutcome
from tests.references.tiny_table import FEATURES, SITES, Patient, patients, write_hospitals, write_study, write_table

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Trained:
    """A study that was trained, and where."""

    folder: Path
    home: Path
    outcome: TrainingOutcome

    @property
    def training(self) -> Path:
        return self.home / "trainings" / "table" / self.outcome.training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three hospitals' tables, trained once with everything a tabular study may ask for."""
    folder = write_hospitals(tmp_path_factory.mktemp("table"))
    evaluate = {
        "bins": 100, "external": "leave_one_site_out",
        "subgroups": [{"feature": "sex"}, {"feature": "age", "edges": [58]}],
    }  # fmt: skip
    study = write_study(folder, evaluate=evaluate)
    return Trained(folder, folder / "home", api.simulate(study, home=folder / "home", dispatcher="in-process"))


def test_the_model_learns_the_risk(trained: Trained) -> None:
    metrics = trained.outcome.tests[ALL_SITES]["global"]
    assert metrics["auroc"].low > 0.6
    assert {"calibration_slope", "calibration_intercept", "brier", "average_precision"} < metrics.keys()


def test_scaling_is_that_of_all_sites_training_rows_and_stays_through_the_rounds(trained: Trained) -> None:
    study = load_study(trained.folder / "table.yaml")
    sites = [open_site_data(study, source, trained.folder / "s") for source in plan_sources(study, trained.folder)]
    ages = torch.cat([data.images("train")[:, 0] for data in sites]).double()
    weights = trained.home / "exchange" / "table"
    ledger = trainings(read(trained.home / "trainings" / "table" / "journal.jsonl"))[trained.outcome.training]
    from components.exchange.store import FolderStore

    for digest in (ledger.initial.weights_digest, ledger.rounds[3].require_state().weights):
        found = FolderStore(weights).get(digest)
        assert found["inputs.mean"][0].item() == pytest.approx(ages.mean().item(), rel=1e-6)
        assert found["inputs.scale"][0].item() == pytest.approx(ages.std(correction=0).item(), rel=1e-6)


def test_the_registered_model_scores_raw_tables_as_predict_does(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = patients("new", 30, seed=9)
    rows[0]["chol"], rows[1]["sex"], rows[2]["pain"] = 0, "", ""
    file = write_table(tmp_path / "new.csv", rows)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.home / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/table@champion")
    assert model.metadata.signature.inputs.input_names() == ["age", "chol", "sex", "pain"]
    table = pandas.read_csv(file, keep_default_na=False)  # as it is: words, a zero that means missing, an empty cell
    expected = model.predict(table)["ill"].to_numpy()
    scored = predict_files("models:/table@champion", [file], home=trained.home)
    np.testing.assert_allclose([item.scores["ill"] for item in scored.files], expected, atol=1e-6)
    assert [item.file.name for item in scored.files][:2] == ["new.csv:1", "new.csv:2"]
    assert np.ptp(expected) > 0.2
    with pytest.raises(mlflow.MlflowException, match="chol"):
        model.predict(table.drop(columns="chol"))
    with pytest.raises(ValueError, match="row 4: age is out of its range"):
        model.predict(table.assign(age=[50, 50, 50, 500] + [50] * 26))


def test_each_site_is_judged_on_all_its_rows_by_a_model_that_never_saw_them(trained: Trained) -> None:
    ledger = trainings(read(trained.home / "trainings" / "table" / "journal.jsonl"))[trained.outcome.training]
    assert ledger.external is not None
    sums = read_sums(trained.training / "external.json", ledger.external["evaluation"])["left_out"]
    assert {site: found.count for site, found in sums.items()} == SITES
    orders = [entry.data for entry in read(trained.home / "sites" / "table" / "east" / "journal.jsonl")]
    without = [data for data in orders if str(data.get("training", "")).endswith(".without-east")]
    assert without
    assert not any(data.get("kind") == "train" for data in without)
    trained_there = {
        entry.data["training"]
        for entry in read(trained.home / "sites" / "table" / "east" / "journal.jsonl")
        if entry.event == "train_ordered"
    }
    assert not any(name.endswith(".without-east") for name in trained_there)
    assert trained.outcome.external.keys() == {*SITES, ALL_SITES}


def test_what_was_found_is_in_mlflow_and_in_the_report(trained: Trained) -> None:
    client = MlflowClient(f"sqlite:///{trained.home / 'mlflow.db'}")
    run = next(
        run
        for run in client.search_runs([client.get_experiment_by_name("table").experiment_id])
        if "external/auroc" in run.data.metrics and "round/sites" in run.data.metrics
    )
    assert run.data.metrics["external/auroc"] == pytest.approx(trained.outcome.external[ALL_SITES]["auroc"].value)
    artifacts = trained.home / "artifacts"
    table = next(artifacts.rglob("leave_one_site_out.csv"))
    with table.open() as file:
        assert {row["left out"] for row in csv.DictReader(file)} == {*SITES, ALL_SITES}
    for name in ("decision.png", "external.png", "subgroups.png"):
        assert next(artifacts.rglob(name)).read_bytes()[:4] == b"\x89PNG"
    report = (trained.training / "report.html").read_text()
    for words in ("At a hospital the model never saw", "Subgroups", "sex yes", "sex no", "Calibration slope"):
        assert words in report


def refuse(tmp_path: Path, site: str, change: dict[str, object]) -> str:
    """Simulate with one site's table spoilt; return the message that ends it, before any training."""

    def spoil(name: str, rows: list[Patient]) -> list[Patient]:
        return [row | change for row in rows] if name == site else rows

    folder = write_hospitals(tmp_path, spoil)
    with pytest.raises(DataError) as caught:
        api.simulate(write_study(folder), home=tmp_path / "home", dispatcher="in-process")
    assert not list((tmp_path / "home" / "trainings").rglob("*.json"))
    return str(caught.value)


def test_a_site_with_other_units_is_named_with_its_field_before_training(tmp_path: Path) -> None:
    message = refuse(tmp_path, "west", {"chol": 5.2})
    assert "2 of 3 sites are ready" in message
    assert "west: its table is not what the study says: chol is out of its range of 60 to 700 (mg/dl)" in message


def test_a_feature_with_one_value_everywhere_is_named_before_training(tmp_path: Path) -> None:
    folder = write_hospitals(tmp_path, lambda _, rows: [row | {"age": 50} for row in rows])
    with pytest.raises(DataError, match=r"age has the same value in all rows of all sites.*Leave them out"):
        api.simulate(write_study(folder), home=tmp_path / "home", dispatcher="in-process")


def test_swapped_labels_of_one_site_are_asked_about_at_the_end(tmp_path: Path) -> None:
    other = {"well": "ill", "ill": "well"}

    def swap(site: str, rows: list[Patient]) -> list[Patient]:
        return [row | {"outcome": other[row["outcome"]]} for row in rows] if site == "east" else rows

    folder = write_hospitals(tmp_path, swap)
    outcome = api.simulate(write_study(folder), home=tmp_path / "home", dispatcher="in-process")
    (said,) = swapped(outcome.tests)
    assert re.fullmatch(
        r"east: AUROC 0\.[0-4].*, .* the wrong way round, .* sites: are its labels swapped, or are its .*\?", said
    )
    assert "are its labels swapped, or are its patients unlike" in Path(outcome.result["report"]).read_text()
    text = io.StringIO()
    print_results(Console(file=text, width=80), load_study(folder / "table.yaml"), outcome.tests)
    assert said in text.getvalue()


def test_labels_of_one_class_at_all_sites_are_named_with_each(tmp_path: Path) -> None:
    folder = write_hospitals(tmp_path, lambda _, rows: [row | {"outcome": "well"} for row in rows])
    with pytest.raises(DataError) as caught:
        api.simulate(write_study(folder), home=tmp_path / "home", dispatcher="in-process")
    for site in SITES:
        assert re.search(rf"{site}: its [0-9]+ training items are all of one class \(well\)", str(caught.value))


def test_a_training_that_does_not_converge_names_the_sites_and_what_helps(tmp_path: Path) -> None:
    folder = write_hospitals(tmp_path)
    study = write_study(folder, local={"epochs": 5, "batch_size": 16, "optimizer": {"learning_rate": 1e30}})
    with pytest.raises(
        QuorumError, match=r"east, north, west: .*grew without end; lower local\.optimizer\.learning_rate"
    ):
        api.simulate(study, home=tmp_path / "home", dispatcher="in-process")


def test_the_registered_model_needs_nothing_of_wardround(trained: Trained, tmp_path: Path) -> None:
    model = next(path.parent for path in (trained.home / "artifacts").rglob("MLmodel"))
    rows = patients("new", 5, seed=9)
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore')\n"
        "class Absent:  # as where WardRound is not installed\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('components', 'flows', 'models'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import mlflow, pandas\n"
        f"scores = mlflow.pyfunc.load_model({str(model)!r}).predict(pandas.DataFrame({rows!r}))\n"
        "print(json.dumps(scores['ill'].tolist()))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])) == 5


def test_separated_classes_train_and_are_said_to_have_no_slope(tmp_path: Path) -> None:
    def separate(_: str, rows: list[Patient]) -> list[Patient]:
        return [row | {"outcome": "ill" if row["age"] > 58 else "well"} for row in rows]

    folder = write_hospitals(tmp_path, separate)
    local = {"epochs": 20, "batch_size": 16, "optimizer": {"learning_rate": 1.0}}
    features = [FEATURES[0]]
    data = {
        "source": "records", "table": "patients.csv", "columns": {"label": "outcome", "patient": ""},
        "records": {"features": features},
    }  # fmt: skip
    outcome = api.simulate(write_study(folder, local=local, data=data), home=tmp_path / "home", dispatcher="in-process")
    metrics = outcome.tests[ALL_SITES]["global"]
    assert metrics["auroc"].value > 0.99
    assert all(np.isfinite(item.value) for item in metrics.values())
