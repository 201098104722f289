"""A study of treatments from its file to a recommendation, held against the benefits that are known."""

import csv
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from components.assemble import assemble
from components.data.encoding import encode_row
from components.data.known_effects import KnownTrial, TrialPlan, draw_trial
from components.data.records import encoded_features
from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.errors import StudyError
from components.exchange.store import FolderStore
from components.federation import Evaluation, evaluation_order, pool
from components.simulation import simulate
from components.study import Study
from components.study_file import load_study
from components.training.exchanged_entries import load_entries
from flows import api
from flows.build import build_module
from flows.dispatch import InProcessDispatcher
from flows.prediction import predict_files
from flows.readiness import fitted_to
from flows.results import ALL_SITES
from models.treatment import TreatmentModel
from models.treatment_survival import SurvivalTreatmentModel
from tests.references.tiny_table import write_table
from tests.references.tiny_treatment import (
    PLAN,
    SITES,
    rows_of,
    survival_changes,
    treatment_study,
    write_hospitals,
    write_study,
)

pytestmark = pytest.mark.timeout(300)
LOCAL = {"epochs": 1, "batch_size": 32, "optimizer": {"learning_rate": 0.5, "momentum": 0.8}}
ROUNDS = {"max": 12, "convergence": {"metric": "loss", "mode": "min", "patience": 12}}


def dispatcher_of(study: Study, folder: Path) -> InProcessDispatcher:
    """Three hospitals in this process."""
    return InProcessDispatcher(
        {
            source.name: SiteSetting(
                study=study, source=source, state=str(folder / "state" / source.name), store=str(folder / "store")
            )
            for source in plan_sources(study, folder)
        }
    )


@dataclass(frozen=True)
class Recommended:
    """What a federation learned of a trial, and what is known of it.

    Attributes:
        found: [N, 5], of all patients: chance in either arm, benefit, ends of its interval.
        truth: The known benefits.
        tested: The best round on the test patients.
    """

    found: np.ndarray
    truth: np.ndarray
    tested: Evaluation

    @property
    def likeness(self) -> float:
        return float(np.corrcoef(self.found[:, 2], self.truth)[0, 1])


def recommend(folder: Path, trial: KnownTrial, **changes: Any) -> Recommended:
    """Train a federation by the plain loop, and let the best round recommend."""
    write_hospitals(folder, rows_of(trial))
    study = treatment_study(**{"local": LOCAL, "rounds": ROUNDS, **changes})
    strategy, store = assemble(study).strategy, FolderStore(folder / "store")
    with closing(dispatcher_of(study, folder)) as dispatcher:
        prepared = {site: dispatcher.prepare(site).result() for site in SITES}
        initial = dispatcher.initialise(study, fitted_to(study, prepared)).result()
        best = simulate(study, strategy, dispatcher, store, sites=SITES, training="drug-1", initial=initial).best
        orders = {site: evaluation_order(best.plan, site, best.ref.weights, "test") for site in SITES}
        tested = pool(study, {site: dispatcher.submit(order).result() for site, order in orders.items()})
    module = build_module(study)
    assert isinstance(module, TreatmentModel | SurvivalTreatmentModel)
    load_entries(module, store.get(best.ref.weights))
    assert study.data.records is not None
    features = encoded_features(study.data.records)
    rows = torch.tensor([encode_row(row, features) for row in rows_of(trial)])
    truth = trial.benefit
    if study.task.survival is not None:
        means = trial.mean_survival(study.task.survival.horizons[-1])
        truth = means[:, 1] - means[:, 0]
    with torch.no_grad():
        return Recommended(module.eval().recommend(rows).numpy(), truth, tested)


def oracle(trial: KnownTrial) -> np.ndarray:
    """The benefits by two logistic regressions on all patients in one place."""
    columns = [name for name in trial.columns if name.startswith("gene_")] + ["age", "receptor"]
    table = pandas.DataFrame(trial.rows, columns=trial.columns)
    inputs = np.column_stack([table[columns].astype(float), table["stage"] == "II", table["stage"] == "III"])
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    relapse, arm = (table["outcome"] == "relapse").to_numpy(), (table["drug"] == "yes").to_numpy()
    fits = [LogisticRegression(C=1e6).fit(inputs[arm == given], relapse[arm == given]) for given in (False, True)]
    first, second = (fit.predict_proba(inputs)[:, 1] for fit in fits)
    return np.asarray(first - second)


def test_known_benefits_are_recovered_with_intervals_that_hold_them(tmp_path: Path) -> None:
    trial = draw_trial(TrialPlan(patients=3000, genes=5))
    learned = recommend(tmp_path, trial)
    # the oracle has learned from all patients, the federation from six tenths of them
    assert learned.likeness > np.corrcoef(oracle(trial), trial.benefit)[0, 1] - 0.05
    assert learned.likeness > 0.87
    found, truth = learned.found, learned.truth
    # 1800 patients: the mean effect has a standard error of 2 sqrt(0.23 / 1800) = 0.023
    assert abs((found[:, 2] - truth).mean()) < 3 * 0.023
    assert ((found[:, 2] > 0) == (truth > 0)).mean() > 0.83
    # the errors of one training are common to its patients: the share held is not binomial about 0.95
    assert ((found[:, 3] <= truth) & (truth <= found[:, 4])).mean() > 0.85
    assert ((found[:, 4] - found[:, 3]) / 2).mean() < 3 * found[:, 2].std()
    metrics = learned.tested.metrics
    assert metrics["recommended_gain"].low > 0
    assert metrics["qini"].low > 0
    assert metrics["effect"].low < truth.mean() < metrics["effect"].high
    assert metrics["benefit_slope"].low < 1 < metrics["benefit_slope"].high
    told = [sums.treatment for sums in learned.tested.by_site.values() if sums.treatment]
    assert len(told) == 3
    assert all(count >= 5 for sums in told for arm in sums.arms for count in (*arm.patients, *arm.overlap))


@pytest.mark.parametrize(("learner", "widths"), [("x", [16]), ("single", [16])])
def test_other_learners_recover_them_too(tmp_path: Path, learner: str, widths: list[int]) -> None:
    trial = draw_trial(TrialPlan(patients=3000, genes=5))
    local = {"epochs": 3, "batch_size": 64, "optimizer": {"name": "adam", "learning_rate": 0.02}}
    network = {"name": "MLP", "arguments": {"widths": widths}}
    learned = recommend(tmp_path, trial, network=network, treatment={"learner": learner}, local=local)
    assert learned.likeness > np.corrcoef(oracle(trial), trial.benefit)[0, 1] - 0.08
    assert learned.tested.metrics["qini"].low > 0


def test_weights_by_fitted_chances_correct_what_nobody_drew_lots_for(tmp_path: Path) -> None:
    trial = draw_trial(TrialPlan(patients=4000, genes=5, randomised=False, seed=5))
    local = {"epochs": 1, "batch_size": 64, "optimizer": {"learning_rate": 0.3, "momentum": 0.5}}
    learned = recommend(tmp_path, trial, arm={"randomised": False, "propensity": None}, local=local)
    relapse, given = (
        np.array([row[trial.columns.index(name)] == value for row in trial.rows])
        for name, value in (("outcome", "relapse"), ("drug", "yes"))
    )
    naive = relapse[~given].mean() - relapse[given].mean()
    effect = learned.tested.metrics["effect"]
    assert naive < trial.benefit.mean() - 0.05  # who is iller, and gains less, is treated more often
    assert effect.low < trial.benefit.mean() < effect.high
    assert learned.likeness > 0.85


CONCORDANCE = {"max": 15, "convergence": {"metric": "concordance", "mode": "max", "patience": 15}}
DEEPSURV = {
    "network": {"name": "MLP", "arguments": {"widths": [16]}},
    "local": {"epochs": 10, "optimizer": {"name": "adam", "learning_rate": 0.02}},
}


@pytest.mark.parametrize(("learner", "least"), [("t", 0.85), ("single", 0.65)])
def test_known_gains_of_survival_are_recovered(tmp_path: Path, learner: str, least: float) -> None:
    trial = draw_trial(TrialPlan(patients=3000, genes=5))
    changes = survival_changes() | {"rounds": CONCORDANCE} | (DEEPSURV if learner == "single" else {})
    changes["task"]["treatment"]["learner"] = learner
    learned = recommend(tmp_path, trial, **changes)
    found, truth, metrics = learned.found, learned.truth, learned.tested.metrics
    assert learned.likeness > least
    # in days of 1460: censoring leaves about as much as 1000 patients, an error of 2 * 500 / sqrt(1000) = 32 days
    assert abs((found[:, 2] - truth).mean()) < 3 * 32
    assert ((found[:, 3] <= truth) & (truth <= found[:, 4])).mean() > 0.75
    assert metrics["effect"].low < truth.mean() < metrics["effect"].high
    assert metrics["recommended_gain"].low > 0
    assert metrics["recommended_gain"].value < 1460
    assert metrics["concordance"].low > 0.6


@dataclass(frozen=True)
class Trained:
    """A study that was trained with all that belongs to it, and where."""

    folder: Path
    home: Path
    training: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three hospitals without lots, an X-learner with layers of each hospital's own."""
    folder = write_hospitals(tmp_path_factory.mktemp("drug"))
    study = write_study(
        folder, treatment={"learner": "x"}, arm={"randomised": False, "propensity": None},
        network={"name": "MLP", "arguments": {"widths": [8], "norm": "batch"}}, strategy={"name": "FedBN"},
    )  # fmt: skip
    outcome = api.simulate(study, home=folder / "home", dispatcher="in-process")
    assert "qini" in outcome.tests[ALL_SITES]["global"]
    return Trained(folder, folder / "home", folder / "home" / "trainings" / "drug" / outcome.training)


def test_pyfunc_recommends_what_predict_does(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(draw_trial(PLAN))[:50]
    scored = predict_files("models:/drug@champion", [write_table(trained.folder / "new.csv", rows)], home=trained.home)
    assert "NOT RANDOMISED" in scored.warning
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.home / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/drug@champion")
    assert "drug" not in model.metadata.signature.inputs.input_names()
    names = ["relapse no", "relapse yes", "benefit", "benefit low", "benefit high"]
    assert model.metadata.signature.outputs.input_names() == [*names, "recommended"]
    found = model.predict(pandas.DataFrame(rows).drop(columns=["drug", "outcome"]))
    for name in names:
        np.testing.assert_allclose(found[name], [item.scores[name] for item in scored.files], atol=1e-6)
    assert found["recommended"].tolist() == [item.decision for item in scored.files]
    assert found["recommended"].tolist() == ["yes" if benefit > 0 else "no" for benefit in found["benefit"]]


def test_a_hospital_has_recommendations_of_its_own_under_fedbn(trained: Trained) -> None:
    file = write_table(trained.folder / "own.csv", rows_of(draw_trial(PLAN))[:20])
    found = [predict_files("models:/drug@champion", [file], home=trained.home, site=site) for site in SITES]
    benefits = [[item.scores["benefit"] for item in scored.files] for scored in found]
    assert benefits[0] != benefits[1] != benefits[2]


def test_the_report_warns_and_shows(trained: Trained) -> None:
    report = (trained.training / "report.html").read_text()
    for words in ("NOT RANDOMISED: nobody drew lots for drug", "Qini coefficient", "Gain of the recommended arm"):
        assert words in report
    for name in ("uplift.png", "benefit.png", "overlap.png"):
        assert next((trained.home / "artifacts").rglob(name)).read_bytes()[:4] == b"\x89PNG"


def reason(folder: Path, change: dict[str, str | None]) -> str:
    """Let a hospital with a spoilt table prepare; return why it cannot take part. None takes the column away."""
    write_hospitals(folder)
    path = folder / "south" / "patients.csv"
    with path.open() as file:
        spoilt = [{key: value for key, value in (row | change).items() if value is not None}
                  for row in csv.DictReader(file)]  # fmt: skip
    write_table(path, spoilt)
    with closing(dispatcher_of(treatment_study(), folder)) as dispatcher:
        found = dispatcher.prepare("south").result()
    assert not found.ready
    return found.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"drug": "no"}, r"all of its \d+ training patients have the arm no \(column drug\), so nothing says what yes"),
        ({"drug": "2"}, "its table is not what the study says: arm is none of its categories in"),
        ({"drug": ""}, r"0 of \d+ items can be used .*missing arm"),
        ({"drug": None}, "its table lacks the column drug"),
        ({"outcome": "well"}, r"its \d+ training items are all of one class \(well\)"),
        ({"gene_02": "250"}, "its table is not what the study says: gene_02 is out of its range of -8 to 8"),
    ],
)
def test_a_hospital_that_can_say_nothing_of_benefits_says_why(
    tmp_path: Path, change: dict[str, str | None], words: str
) -> None:
    message = reason(tmp_path, change)
    assert message.startswith("site south: ")
    assert re.search(words, message), message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arm": {"levels": ["no", "no"]}}, "levels must differ"),
        ({"arm": {"randomised": False}}, "propensity is known by design only where chance decided"),
        ({"arm": {"column": "receptor"}}, "its column receptor is a feature too"),
        ({"treatment": {"better": "alive"}}, "treatment.better must be one of well, relapse, given 'alive'"),
        ({"treatment": {"learner": "single"}}, "must be MLP with learner: single"),
        ({"task": {"classes": ["a", "b"]}}, "goes with task.treatment, and only with it"),
        ({"task": {"classes": ["a", "b", "c"], "kind": "multiclass", "treatment": {}}},
         "given multiclass; must be binary or survival with task.treatment"),
        (survival_changes() | {"strategy": {"name": "FedBN"}}, "whose baseline hazard is of all sites"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_is_refused_with_its_field(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        load_study(write_study(tmp_path, **changes))
