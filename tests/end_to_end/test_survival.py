"""A survival study of three hospitals' tables, from preparation to prediction; and what is said where it is wrong."""

import csv
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas
import pytest

from components.errors import DataError, QuorumError
from components.journal import read
from components.ledger import trainings
from flows import api
from flows.prediction import predict_files
from flows.results import ALL_SITES, swapped
from flows.run import TrainingOutcome
from tests.references.tiny_survival import Patient, patients, task, write_hospitals, write_study
from tests.references.tiny_table import SITES, write_table

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Trained:
    """A study that was trained, and where."""

    folder: Path
    home: Path
    outcome: TrainingOutcome


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three hospitals' tables, trained once with everything a survival study may ask for."""
    folder = write_hospitals(tmp_path_factory.mktemp("survival"))
    evaluate = {"external": "leave_one_site_out", "subgroups": [{"feature": "stage"}]}
    rounds = {"max": 3, "convergence": {"metric": "loss", "mode": "min", "patience": 3}}
    local = {"epochs": 10, "optimizer": {"learning_rate": 0.5}}
    study = write_study(folder, evaluate=evaluate, rounds=rounds, local=local)
    return Trained(folder, folder / "home", api.simulate(study, home=folder / "home", dispatcher="in-process"))


def test_the_model_ranks_patients_and_its_chances_are_right(trained: Trained) -> None:
    metrics = trained.outcome.tests[ALL_SITES]["global"]
    assert metrics["concordance"].low > 0.6
    assert abs(metrics["concordance"].value - metrics["concordance_ipcw"].value) < 0.1
    assert metrics["integrated_brier"].high < 0.25
    assert metrics["calibration_ratio"].low < 1.0 < metrics["calibration_ratio"].high


def test_each_site_is_judged_by_a_model_that_never_saw_it(trained: Trained) -> None:
    assert trained.outcome.external.keys() == {*SITES, ALL_SITES}
    assert trained.outcome.external[ALL_SITES]["concordance"].support == sum(SITES.values())


def test_the_registered_model_scores_raw_tables_as_predict_does(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = patients("new", 30, seed=9)
    rows[0]["marker"], rows[1]["stage"] = "?", ""
    file = write_table(tmp_path / "new.csv", rows)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.home / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/survival@champion")
    assert model.metadata.signature.inputs.input_names() == ["age", "marker", "stage"]
    assert model.metadata.signature.outputs.input_names() == ["risk", "survival_5", "survival_10"]
    expected = model.predict(pandas.read_csv(file, keep_default_na=False))
    scored = predict_files("models:/survival@champion", [file], home=trained.home)
    for name in expected.columns:
        np.testing.assert_allclose([item.scores[name] for item in scored.files], expected[name], atol=1e-5)
    assert (expected["survival_10"] < expected["survival_5"]).all()
    assert np.corrcoef(expected["risk"], expected["survival_5"])[0, 1] < -0.8
    assert {item.decision for item in scored.files} == {"event by 10 years", "no event by 10 years"}


def test_what_was_found_is_in_mlflow_and_in_the_report(trained: Trained) -> None:
    artifacts = trained.home / "artifacts"
    with next(artifacts.rglob("leave_one_site_out.csv")).open() as file:
        assert {row["metric"] for row in csv.DictReader(file)} >= {"concordance", "integrated_brier"}
    for name in ("test_calibration.png", "test_brier.png", "test_concordance.png", "external.png", "subgroups.png"):
        assert next(artifacts.rglob(name)).read_bytes()[:4] == b"\x89PNG"
    report = Path(trained.outcome.result["report"]).read_text()
    for words in (
        "Concordance",
        "Integrated Brier score",
        "Events seen / expected",
        "stage III",
        "pairs within a site",
    ):
        assert words.lower() in report.lower()
    assert "AUROC" not in report


def test_no_time_of_a_patient_is_in_what_a_site_says(trained: Trained) -> None:
    ledger = trainings(read(trained.home / "trainings" / "survival" / "journal.jsonl"))[trained.outcome.training]
    said = str([found.model_dump() for found in ledger.preparations.values()])
    times = [str(row["years"]) for row in patients("east", SITES["east"])]
    assert not [time for time in times if time in said]


@pytest.mark.parametrize(
    ("network", "loss"),
    [("MLP", "cox"), ("Linear", "hazards")],
)
def test_other_networks_and_likelihoods_learn_as_well(tmp_path: Path, network: str, loss: str) -> None:
    folder = write_hospitals(tmp_path)
    local = {"epochs": 10, "optimizer": {"name": "adam", "learning_rate": 0.02}}
    small = {"widths": [4]} if network == "MLP" else {}  # 240 rows do not teach a larger one
    rounds = {"max": 5, "convergence": {"metric": "loss", "mode": "min", "patience": 3}}
    study = write_study(
        folder, network={"name": network, "arguments": small}, task=task(loss=loss), local=local, rounds=rounds
    )
    outcome = api.simulate(study, home=tmp_path / "home", dispatcher="in-process")
    metrics = outcome.tests[ALL_SITES]["global"]
    assert metrics["concordance"].value > 0.65
    assert metrics["integrated_brier"].value < 0.25


def refuse(tmp_path: Path, site: str, change: dict[str, object], **changes: object) -> str:
    """Simulate with the tables of one site, or of all, spoilt; return the message that ends it, before any training."""

    def spoil(name: str, rows: list[Patient]) -> list[Patient]:
        return [row | change for row in rows] if site in (name, "all") else rows

    folder = write_hospitals(tmp_path, spoil)
    with pytest.raises(DataError) as caught:
        api.simulate(write_study(folder, **changes), home=tmp_path / "home", dispatcher="in-process")
    assert not list((tmp_path / "home" / "trainings").rglob("*.json"))
    return str(caught.value)


def test_times_in_another_unit_are_named_before_training(tmp_path: Path) -> None:
    message = refuse(tmp_path, "west", {"years": 800.0})
    assert (
        "west: its times are out of their range of 0 to 20 (years) in 80 of 80 rows: are they in another unit"
        in message
    )
    message = refuse(tmp_path / "short", "east", {"years": 0.1}, task=task(typical=[1, 8]))
    assert "east: the median of its times is not between 1 and 8 years" in message


def test_a_site_without_events_is_named_before_training(tmp_path: Path) -> None:
    message = refuse(tmp_path, "west", {"died": "no"})
    assert "2 of 3 sites are ready" in message
    assert "west: no event was seen in its 46 training items" in message


def test_everybody_censored_is_refused_also_of_hazards(tmp_path: Path) -> None:
    message = refuse(tmp_path, "all", {"died": "no"}, task=task(loss="hazards"))
    assert "none of the 93 validation items of all sites has an event" in message
    message = refuse(tmp_path / "cox", "all", {"died": "no"})
    for site in SITES:
        assert f"{site}: no event was seen in its" in message


def exchanged(tmp_path: Path, site: str) -> TrainingOutcome:
    """Train on larger hospitals, of which one has events and censored exchanged."""
    other = {"yes": "no", "no": "yes"}

    def exchange(name: str, rows: list[Patient]) -> list[Patient]:
        found = patients(name, 5 * len(rows))
        return [row | {"died": other[row["died"]]} for row in found] if name == site else found

    folder = write_hospitals(tmp_path, exchange)
    study = write_study(folder, local={"epochs": 10, "optimizer": {"learning_rate": 0.5}})
    return api.simulate(study, home=tmp_path / "home", dispatcher="in-process")


@pytest.mark.parametrize("site", ["", "east"])
def test_events_and_censored_exchanged_at_one_site_are_asked_about_at_the_end(site: str, tmp_path: Path) -> None:
    outcome = exchanged(tmp_path, site)
    said = swapped(outcome.tests)
    assert [text.partition(":")[0] for text in said] == [site] * bool(site)
    report = Path(outcome.result["report"]).read_text()
    assert ("no better than chance" in report) == ("are events and censored exchanged there" in report) == bool(site)


def test_separated_events_end_an_exact_fit_with_the_sites_and_what_helps(tmp_path: Path) -> None:
    def separate(_: str, rows: list[Patient]) -> list[Patient]:
        return [row | {"years": round((100 - row["age"]) / 10, 4), "died": "yes"} for row in rows]

    folder = write_hospitals(tmp_path, separate)
    study = write_study(folder, local={"method": "newton", "epochs": 1}, rounds={"max": 40})
    with pytest.raises(QuorumError, match=r"east, north, west: .*orders the events without an error.*weight_decay"):
        api.simulate(study, home=tmp_path / "home", dispatcher="in-process")


def test_a_training_that_does_not_converge_names_the_sites_and_what_helps(tmp_path: Path) -> None:
    folder = write_hospitals(tmp_path)
    study = write_study(folder, local={"epochs": 5, "optimizer": {"learning_rate": 1e30}})
    with pytest.raises(
        QuorumError, match=r"east, north, west: .*grew without end; lower local\.optimizer\.learning_rate"
    ):
        api.simulate(study, home=tmp_path / "home", dispatcher="in-process")


def test_words_that_are_no_events_go_to_the_quarantine(tmp_path: Path) -> None:
    message = refuse(tmp_path, "north", {"died": "perhaps"})
    assert "whether the event was seen is neither yes nor no" in message
