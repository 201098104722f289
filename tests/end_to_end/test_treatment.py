"""A study of treatments from its file to a recommendation, held against the benefits that are known."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas
import pytest
from sklearn.linear_model import LogisticRegression

from components.data.known_effects import KnownTrial, TrialPlan, draw_trial
from flows import api
from flows.prediction import predict_files
from flows.results import ALL_SITES
from tests.end_to_end.recommended import recommend
from tests.references.tiny_table import write_table
from tests.references.tiny_treatment import (
    PLAN,
    SITES,
    rows_of,
    survival_changes,
    write_hospitals,
    write_study,
)

pytestmark = pytest.mark.timeout(300)


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


# an X-learner's effects are straight lines here, the true ones are not: its intervals are those of the line
@pytest.mark.parametrize(("learner", "least", "held"), [("t", 0.85, 0.85), ("x", 0.8, 0.6), ("single", 0.65, 0.75)])
def test_known_gains_of_survival_are_recovered(tmp_path: Path, learner: str, least: float, held: float) -> None:
    trial = draw_trial(TrialPlan(patients=3000, genes=5))
    changes = survival_changes() | {"rounds": CONCORDANCE} | (DEEPSURV if learner == "single" else {})
    changes["task"]["treatment"]["learner"] = learner
    learned = recommend(tmp_path, trial, **changes)
    found, truth, metrics = learned.found, learned.truth, learned.tested.metrics
    assert learned.likeness > least
    # in days of 1460: censoring leaves about as much as 1000 patients, an error of 2 * 500 / sqrt(1000) = 32 days
    assert abs((found[:, 2] - truth).mean()) < 3 * 32
    assert ((found[:, 3] <= truth) & (truth <= found[:, 4])).mean() > held
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
    """Three hospitals without lots, a single learner with layers of each hospital's own."""
    folder = write_hospitals(tmp_path_factory.mktemp("drug"))
    study = write_study(
        folder, treatment={"learner": "single"}, arm={"randomised": False, "propensity": None},
        network={"name": "MLP", "arguments": {"widths": [8], "norm": "batch"}}, strategy={"name": "FedBN"},
    )  # fmt: skip
    outcome = api.simulate(study, home=folder / "home", dispatcher="in-process")
    assert "qini" in outcome.tests[ALL_SITES]["global"]
    return Trained(folder, folder / "home", folder / "home" / "trainings" / "drug" / outcome.training)


def test_pyfunc_recommends_what_predict_does(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(draw_trial(PLAN))[:50]
    scored = predict_files("models:/drug@champion", [write_table(trained.folder / "new.csv", rows)], home=trained.home)
    assert "NOT RANDOMISED" in scored.warning
    assert "INTERVALS TOO NARROW" in scored.warning
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.home / 'mlflow.db'}")
    with pytest.warns(UserWarning, match=r"its own normalisation layers.*NOT RANDOMISED.*INTERVALS TOO NARROW"):
        model = mlflow.pyfunc.load_model("models:/drug@champion")
    assert model.metadata.metadata["warning"] == scored.warning
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
    for words in (
        "NOT RANDOMISED: nobody drew lots for drug", "INTERVALS TOO NARROW: a single learner", "Qini coefficient",
        "Gain of the recommended arm", "Between the hospitals: mean effect of the second arm: Cochran&#39;s Q ",
    ):  # fmt: skip
        assert words in report
    for name in ("uplift.png", "benefit.png", "overlap.png"):
        assert next((trained.home / "artifacts").rglob(name)).read_bytes()[:4] == b"\x89PNG"
