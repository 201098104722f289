"""Benefits known of real patients in their real regions: a federation finds them as well as one place does."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from lifelines import CoxPHFitter

from components.data.encoding import encode_row
from components.data.known import default_data_root
from components.data.known_effects import KnownTrial
from components.data.made_tables import draw_made
from components.data.records import encoded_features
from components.data.site_data import open_site_data
from components.data.sources import plan_sources, pooled_source
from components.study import Study
from components.study_file import load_study
from tests.end_to_end.recommended import recommendations
from tests.references.tiny_treatment import rows_of

STUDIES = Path(__file__).parents[2] / "studies"
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (default_data_root() / "tcga_brca").is_dir(), reason="WARDROUND_DATA has no tcga_brca"),
]


def by_lifelines(study: Study, trial: KnownTrial, folder: Path) -> np.ndarray:
    """The benefit of everybody by two ridge regressions of Cox on the federation's training patients in one place."""
    assert study.task.survival is not None
    assert study.data.records is not None
    data = open_site_data(study, pooled_source(plan_sources(study, folder)), folder / "oracle")
    features = encoded_features(study.data.records)
    train, labels = data.images("train").numpy(), data.labels("train").numpy()
    mean, scale = train[:, :-1].mean(axis=0), train[:, :-1].std(axis=0)
    rows = (np.array([encode_row(row, features) for row in rows_of(trial)]) - mean) / scale
    grid, lived = np.linspace(0, study.task.survival.horizons[-1], 61), []
    for arm in (0, 1):
        mine = train[:, -1] == arm
        table = pandas.DataFrame((train[mine, :-1] - mean) / scale)
        table["days"], table["died"] = labels[mine].T
        curves = CoxPHFitter(penalizer=0.1).fit(table, "days", "died").predict_survival_function(rows, times=grid)
        lived.append(np.trapezoid(curves.to_numpy().T, grid, axis=1))
    return np.asarray(lived[1] - lived[0])


@pytest.mark.parametrize("learner", ["t", pytest.param("x", marks=pytest.mark.long)])
def test_six_regions_find_the_known_benefits_as_well_as_one_place_does(learner: str, tmp_path: Path) -> None:
    changes = {"task.treatment.learner": learner, "task.treatment.members": 10, "rounds.max": 10}
    study = load_study(STUDIES / "treatment-regions.yaml", changes)
    trial, sources = draw_made("made:regions", default_data_root()), plan_sources(study, STUDIES)
    federated = recommendations(study, trial, tmp_path / "federated", sources)
    pooled = recommendations(study, trial, tmp_path / "pooled", [pooled_source(sources)])
    oracle = np.corrcoef(by_lifelines(study, trial, tmp_path), federated.truth)[0, 1]
    assert federated.likeness > 0.6
    assert federated.likeness > pooled.likeness - 0.05
    assert federated.likeness > oracle - (
        0.05 if learner == "t" else 0.12
    )  # effects are straight lines to an X-learner
    assert len(federated.tested.by_site) == 6
