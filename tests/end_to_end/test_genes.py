"""A study of many columns, trained on their principal components: from preparation to report and prediction."""

import csv
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas
import pytest

from components.errors import DataError
from components.journal import read
from components.ledger import trainings
from flows import api
from flows.prediction import predict_files
from flows.results import ALL_SITES
from flows.run import TrainingOutcome
from tests.references.tiny_genes import STUDY, names, patients, write_hospitals, write_study
from tests.references.tiny_table import SITES, Patient, write_table

pytestmark = pytest.mark.timeout(900)
GENES = 900  # sums of so many are too long for a line of the journal


@dataclass(frozen=True)
class Trained:
    """A study that was trained, and where."""

    home: Path
    outcome: TrainingOutcome


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = write_hospitals(tmp_path_factory.mktemp("genes"), GENES)
    evaluate = {"external": "leave_one_site_out", "compare": ["pooled"]}
    study = write_study(folder, GENES, wide={"components": 3}, evaluate=evaluate, local={"epochs": 20})
    return Trained(folder / "home", api.simulate(study, home=folder / "home", dispatcher="in-process"))


def test_three_components_tell_the_ill_from_the_well_as_all_rows_in_one_place_do(trained: Trained) -> None:
    tests = trained.outcome.tests[ALL_SITES]
    assert tests["global"]["auroc"].low > 0.7
    assert abs(tests["global"]["auroc"].value - tests["pooled"]["auroc"].value) < 0.02
    assert trained.outcome.external[ALL_SITES]["auroc"].low > 0.7
    assert trained.outcome.external[ALL_SITES]["auroc"].support == sum(SITES.values())


def test_the_journal_says_what_the_components_are_and_keeps_long_sums_beside_it(trained: Trained) -> None:
    folder = trained.home / "trainings" / STUDY
    ledger = trainings(read(folder / "journal.jsonl"))[trained.outcome.training]
    assert ledger.components is not None
    assert ledger.components.exact == [True] * 3
    assert 0.4 < sum(ledger.components.explained) < 0.7
    kept = {path.stem for path in (folder / ledger.training / "sums").iterdir()}
    assert {found.sums_file for found in ledger.preparations.values()} == kept


def test_the_report_and_mlflow_say_what_each_component_explains(trained: Trained) -> None:
    artifacts = trained.home / "artifacts"
    with next(artifacts.rglob("components.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["component"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["explained_together"]) == pytest.approx(sum(float(row["explained"]) for row in rows), abs=1e-5)
    assert next(artifacts.rglob("figures/components.png")).read_bytes()[:4] == b"\x89PNG"
    assert "What of the columns" in Path(trained.outcome.result["report"]).read_text()


def test_the_registered_model_asks_for_all_columns_and_scores_as_predict_does(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_table(tmp_path / "new.csv", patients("new", 20, GENES, missing=0.1, seed=9))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.home / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model(f"models:/{STUDY}@champion")
    assert model.metadata.signature.inputs.input_names() == ["age", *names(GENES)]
    expected = model.predict(pandas.read_csv(file, keep_default_na=False))
    scored = predict_files(f"models:/{STUDY}@champion", [file], home=trained.home)
    scores = [item.scores["ill"] for item in scored.files]
    np.testing.assert_allclose(scores, expected["ill"], atol=1e-5)
    assert max(scores) - min(scores) > 0.2


def test_a_hospital_that_lacks_columns_of_a_pattern_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    def spoil(site: str, rows: list[Patient]) -> list[Patient]:
        lost = {"gene_00002", "gene_00004"} if site == "west" else set()
        return [{name: cell for name, cell in row.items() if name not in lost} for row in rows]

    write_hospitals(tmp_path, 6, change=spoil)
    study = write_study(tmp_path, 6, wide={"pattern": "gene_*", "components": 2})
    with pytest.raises(
        DataError, match=r"not meet the same columns at all sites: west lacks gene_00002, gene_00004\. "
    ):
        api.simulate(study, home=tmp_path / "home", dispatcher="in-process")
    assert not (tmp_path / "home" / "trainings" / STUDY / "journal.jsonl").read_text()
