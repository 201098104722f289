"""Federated Newton steps of Cox's loss are the fit of lifelines on all rows, stratified by site, to 1e-6."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from lifelines import CoxPHFitter

from components.assemble import assemble, study_mistakes
from components.data.known import default_data_root
from components.data.site_data import open_site_data
from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.errors import RefusedError
from components.exchange.store import FolderStore
from components.simulation import Simulation, simulate
from components.study import Study
from components.study_file import load_study
from flows.build import build_module
from flows.dispatch import InProcessDispatcher
from flows.readiness import fitted_to
from tests.references.tiny_survival import Patient, survival_study, task, write_hospitals

NEWTON = {"method": "newton", "epochs": 1}


def trained(study: Study, folder: Path, rounds: int = 9, folder_of_study: Path | None = None) -> Simulation:
    """Train the study on the tables of a folder, in this process, through all rounds."""
    study = study.model_copy(update={"rounds": study.rounds.model_copy(update={"max": rounds, "convergence": None})})
    settings = {
        source.name: SiteSetting(
            study=study, source=source, state=str(folder / source.name / "s"), store=str(folder / "store")
        )
        for source in plan_sources(study, folder_of_study or folder)
    }
    with closing(InProcessDispatcher(settings)) as dispatcher:
        found = {site: dispatcher.prepare(site).result() for site in settings}
        assert all(item.ready for item in found.values()), found
        initial = dispatcher.initialise(study, fitted_to(study, found)).result()
        strategy, store = assemble(study).strategy, FolderStore(folder / "store")
        return simulate(study, strategy, dispatcher, store, sites=list(settings), training="t", initial=initial)


def pooled(study: Study, folder: Path, result: Simulation, folder_of_study: Path | None = None) -> pandas.DataFrame:
    """Return the training rows of all sites as the network sees them, with time, event and site."""
    module = build_module(study)
    module.load_state_dict(result.state.weights, strict=False)
    frames = []
    for source in plan_sources(study, folder_of_study or folder):
        data = open_site_data(study, source, folder / "oracle")
        rows = module.inputs(data.images("train")).double().numpy()  # type: ignore[operator]
        frame = pandas.DataFrame(rows, columns=[f"x{place}" for place in range(rows.shape[1])])
        frame["time"], frame["event"] = data.labels("train").double().numpy().T
        frames.append(frame.assign(site=source.name))
    return pandas.concat(frames, ignore_index=True)


@pytest.mark.parametrize("whole", [False, True])
def test_the_weights_are_those_of_the_pooled_fit_stratified_by_site(tmp_path: Path, whole: bool) -> None:
    study = survival_study(local=NEWTON)
    write_hospitals(tmp_path, whole=whole)
    result = trained(study, tmp_path)
    rows = pooled(study, tmp_path, result)
    oracle = CoxPHFitter().fit(rows, "time", "event", strata=["site"], fit_options={"precision": 1e-10})  # Efron
    found = result.state.weights["network.weight"][0].numpy()
    np.testing.assert_allclose(found, oracle.params_.to_numpy(), atol=1e-6)
    assert np.abs(found).max() > 0.5
    assert (rows["time"].duplicated().sum() > 50) == whole


def test_with_a_lasso_no_coefficient_can_be_better(tmp_path: Path) -> None:
    """No slope where one is not 0, and none above the lasso where it is; found without it, they are all not 0."""
    for name in ("plain", "thinned"):
        write_hospitals(tmp_path / name)
    plain = trained(survival_study(local=NEWTON), tmp_path / "plain").state.weights["network.weight"][0]
    lasso = 0.1
    result = trained(survival_study(local={**NEWTON, "lasso": lasso}), tmp_path / "thinned")
    weights, slopes = result.state.weights["network.weight"][0], result.state.weights["network.gradient"]
    kept = weights != 0
    assert plain.count_nonzero() == len(plain) > kept.sum() > 0
    assert weights.abs().sum() < plain.abs().sum()
    torch.testing.assert_close(slopes[kept], -lasso * weights[kept].sign(), atol=2e-6, rtol=0)
    assert bool((slopes[~kept].abs() <= lasso).all())


def test_the_baseline_is_events_over_exposure_of_all_rows(tmp_path: Path) -> None:
    study = survival_study(local=NEWTON, data={"records": {"smallest_cell": 1}})
    write_hospitals(tmp_path)
    result = trained(study, tmp_path)
    rows, weights = pooled(study, tmp_path, result), result.state.weights
    score = rows.filter(like="x").to_numpy() @ weights["network.weight"][0].double().numpy()
    edges = np.linspace(0, 10, 21)
    time, event = rows["time"].to_numpy(), rows["event"].to_numpy()
    events = np.histogram(time[event > 0], edges)[0]
    exposure = [(np.exp(score) * np.clip((time - low) / 0.5, 0, 1)).sum() for low in edges[:-1]]
    found = weights["baseline.events"] / weights["baseline.exposure"]
    np.testing.assert_allclose(found.numpy(), events / np.array(exposure), rtol=1e-5)


def test_joined_cells_keep_the_baseline_near_and_tell_of_nobody_alone(tmp_path: Path) -> None:
    curves = []
    for cell in (5, 1):
        study = survival_study(local=NEWTON, data={"records": {"smallest_cell": cell}})
        result = trained(study, write_hospitals(tmp_path / str(cell)))
        module = build_module(study)
        module.load_state_dict(result.state.weights, strict=False)
        curves.append(module.baseline.survival(torch.zeros(1, 1))[0])  # type: ignore[operator, union-attr]
    assert (curves[0] - curves[1]).abs().max() < 0.05
    assert not torch.equal(*curves)


@pytest.mark.skipif(not (default_data_root() / "tcga_brca").is_dir(), reason="WARDROUND_DATA has no tcga_brca")
def test_on_six_real_regions_the_weights_are_those_of_lifelines(tmp_path: Path) -> None:
    studies = Path(__file__).parents[3] / "studies"
    study = load_study(studies / "breast.yaml", {"local.optimizer.weight_decay": 0.0, "evaluate.compare": []})
    result = trained(study, tmp_path, rounds=12, folder_of_study=studies)
    rows = pooled(study, tmp_path, result, studies)
    assert len(rows["site"].unique()) == 6
    oracle = CoxPHFitter().fit(rows, "time", "event", strata=["site"], fit_options={"precision": 1e-10})
    np.testing.assert_allclose(result.state.weights["network.weight"][0].numpy(), oracle.params_.to_numpy(), atol=1e-5)


def test_a_feature_that_orders_the_events_is_refused_with_what_helps(tmp_path: Path) -> None:
    def separate(_: str, rows: list[Patient]) -> list[Patient]:
        return [row | {"years": round((100 - row["age"]) / 10, 4), "died": "yes"} for row in rows]

    write_hospitals(tmp_path, separate)
    with pytest.raises(RefusedError, match=r"a feature orders the events without an error.*weight_decay above 0"):
        trained(survival_study(local=NEWTON), tmp_path, rounds=40)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"network": {"name": "MLP"}}, "network.name"),
        ({"task": task(loss="hazards")}, "task.survival.loss"),
        ({"strategy": {"name": "FedAdam"}}, "strategy.name"),
    ],
)
def test_what_would_not_be_exact_is_refused(changes: dict, field: str) -> None:
    found = [str(mistake) for mistake in study_mistakes(survival_study(**{"local": NEWTON, **changes}))]
    assert any(text.startswith(f"{field}: ") and "with local.method: newton" in text for text in found)
