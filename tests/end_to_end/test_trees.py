"""A study of boosted trees from its file to the registered model, which pyfunc and XGBoost score alike."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas
import pytest
import yaml
from mlflow import MlflowClient

from components.data.encoding import encode_row
from components.data.records import encoded_features
from components.exchange.store import FolderStore
from components.journal import read
from components.ledger import trainings
from components.study_file import load_study
from flows import api
from flows.prediction import predict_files
from flows.results import ALL_SITES
from flows.run import TrainingOutcome
from tests.references.tiny_table import SITES, patients, write_hospitals, write_table
from tests.references.tiny_trees import trees_sections

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Trained:
    """A study that was trained, and where."""

    folder: Path
    home: Path
    outcome: TrainingOutcome

    def rounds(self) -> list[str]:
        """The digests of the weights after each round."""
        ledger = trainings(read(self.home / "trainings" / "table" / "journal.jsonl"))[self.outcome.training]
        return [item.require_state().weights for _, item in sorted(ledger.rounds.items())]


def write_study(folder: Path, **changes: object) -> Path:
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump(trees_sections(**changes)), encoding="utf-8")  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three hospitals' tables, with disclosure control, and everything a tabular study may ask for."""
    folder = write_hospitals(tmp_path_factory.mktemp("trees"))
    evaluate = {
        "bins": 100, "external": "leave_one_site_out", "compare": ["local", "pooled"],
        "subgroups": [{"feature": "sex"}, {"feature": "age", "edges": [58]}],
    }  # fmt: skip
    study = write_study(folder, trees=3, depth=2, smallest_cell=5, evaluate=evaluate)
    return Trained(folder, folder / "home", api.simulate(study, home=folder / "home", dispatcher="in-process"))


def test_the_trees_learn_the_risk_and_are_judged_as_any_model(trained: Trained) -> None:
    metrics = trained.outcome.tests[ALL_SITES]["global"]
    assert metrics["auroc"].low > 0.6
    assert {"calibration_slope", "brier", "average_precision"} < metrics.keys()
    assert trained.outcome.external.keys() == {*SITES, ALL_SITES}
    assert trained.outcome.tests[ALL_SITES]["pooled"]["auroc"].value > 0.7
    assert len(trained.rounds()) == 7
    assert next((trained.home / "artifacts").rglob("importance.png")).read_bytes()[:4] == b"\x89PNG"
    assert "What the trees use" in Path(trained.outcome.result["report"]).read_text()


def test_pyfunc_predict_and_xgboost_score_alike(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = patients("new", 40, seed=9)
    rows[0]["chol"], rows[1]["sex"], rows[2]["pain"] = 0, "", ""
    file = write_table(tmp_path / "new.csv", rows)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.home / 'mlflow.db'}")
    table = pandas.read_csv(file, keep_default_na=False)
    expected = mlflow.pyfunc.load_model("models:/table@champion").predict(table)["ill"].to_numpy()
    scored = predict_files("models:/table@champion", [file], home=trained.home)
    np.testing.assert_allclose([item.scores["ill"] for item in scored.files], expected, atol=1e-6)
    version = MlflowClient(f"sqlite:///{trained.home / 'mlflow.db'}").get_model_version_by_alias("table", "champion")
    files = Path(mlflow.artifacts.download_artifacts(f"models:/table/{version.version}"))
    records = load_study(trained.folder / "table.yaml").data.records
    assert records is not None
    encoded = np.array([encode_row(row, encoded_features(records)) for row in table.to_dict("records")])
    xgboost = pytest.importorskip("xgboost", reason="xgboost-cpu is for Linux alone")
    booster = xgboost.Booster(model_file=files / "trees" / "xgboost.json")
    matrix = xgboost.DMatrix(
        encoded, feature_names=booster.feature_names, feature_types=booster.feature_types, enable_categorical=True
    )
    np.testing.assert_allclose(booster.predict(matrix), expected, atol=1e-6)
    assert booster.feature_names == ["age", "chol", "sex", "pain"]
    assert np.ptp(expected) > 0.2
    manifest = json.loads((files / "manifest.json").read_text())
    assert "trees/xgboost.json" in manifest["files"]


def test_no_version_holds_sums_of_patients(trained: Trained) -> None:
    store = FolderStore(trained.home / "exchange" / "table")
    for digest in trained.rounds():
        assert not store.get(digest)["network.sums"].any()


def test_the_registered_trees_need_nothing_of_wardround(trained: Trained, tmp_path: Path) -> None:
    model = next(path.parent for path in (trained.home / "artifacts").rglob("MLmodel"))
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore')\n"
        "class Absent:  # as where WardRound is not installed\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('components', 'flows', 'models'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import mlflow, pandas\n"
        f"scores = mlflow.pyfunc.load_model({str(model)!r}).predict(pandas.DataFrame({patients('new', 5)!r}))\n"
        "print(json.dumps(scores['ill'].tolist()))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])) == 5
