"""Screening by summed scores: against lifelines and scikit-learn's own, and of 10,000 columns at three hospitals."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from lifelines import CoxPHFitter

from components.assemble import assemble
from components.data.sources import plan_sources
from components.dispatch import SiteSetting
from components.errors import DataError, RefusedError
from components.exchange.store import FolderStore
from components.features import Records
from components.screening import class_scores, survival_scores
from components.simulation import simulate
from components.table_sums import TableSums, check_table_sums, feature_sums, fit
from components.wide_sums import wide_sums
from flows.build import build_module
from flows.dispatch import InProcessDispatcher
from flows.readiness import fitted_to
from models.serving import ServedSurvival, export_program
from tests.references.tiny_survival import FEATURES, SITES, patients, survival_study
from tests.references.tiny_table import write_table

WIDTH, TRUE = 10_000, (17, 4_000, 9_999)  # columns, and those that matter


def test_the_score_is_the_derivative_of_lifelines_likelihood_without_effects() -> None:
    rows = pandas.DataFrame(patients("north", 150))[["age", "years", "died"]]
    rows["died"] = (rows["died"] == "yes").astype(float)
    labels = rows[["years", "died"]].to_numpy(float)
    score, information = survival_scores(rows[["age"]].to_numpy(float), labels)
    rows["age"] -= rows["age"].mean()
    fitter, step = CoxPHFitter(baseline_estimation_method="breslow"), 1e-4
    fitter.fit(rows, "years", "died")
    likelihood = [_likelihood(rows, b) for b in (-step, 0.0, step)]
    assert score[0] == pytest.approx((likelihood[2] - likelihood[0]) / (2 * step), rel=1e-5)
    assert information[0] == pytest.approx(-(likelihood[2] - 2 * likelihood[1] + likelihood[0]) / step**2, rel=1e-3)
    assert (score**2 / information)[0] == pytest.approx((fitter.params_ / fitter.standard_errors_)["age"] ** 2, rel=0.2)


def _likelihood(rows: pandas.DataFrame, coefficient: float) -> float:
    """Return the partial likelihood's logarithm, times being distinct."""
    weight = np.exp(coefficient * rows["age"].to_numpy())
    times = rows["years"].to_numpy()
    at_risk = np.array([weight[times >= time].sum() for time in times])
    return float((rows["died"].to_numpy() * np.log(weight / at_risk)).sum())


def test_a_missing_value_counts_as_the_mean_and_the_scale_of_a_column_does_not_count() -> None:
    random = np.random.default_rng(1)
    table, labels = random.normal(size=(50, 3)), random.integers(2, size=50)
    table[:7, 1] = np.nan
    score, information = class_scores(table, labels)
    scaled = class_scores(table * 1000 + 5, labels)
    np.testing.assert_allclose(scaled[0] ** 2 / scaled[1], score**2 / information)
    filled = np.where(np.isnan(table), np.nanmean(table, axis=0), table)
    np.testing.assert_allclose(class_scores(filled, labels)[0], score, atol=1e-12)


def write_wide(folder: Path) -> list[str]:
    """Write each site's table with columns of noise, three of which drive the hazard; return their names."""
    names = [f"gene_{number}" for number in range(WIDTH)]
    for site, count in SITES.items():
        random = np.random.default_rng([8, *site.encode()])
        values = random.normal(size=(count, WIDTH)).round(3)
        rows = patients(site, count)
        time = random.exponential(np.exp(-values[:, TRUE].sum(axis=1)) * 6)
        for place, row in enumerate(rows):
            row |= {"years": round(min(time[place], 12.0), 4), "died": "yes" if time[place] < 12 else "no"}
            row |= dict(zip(names, values[place].tolist(), strict=True))
        write_table(folder / site / "patients.csv", rows)
    return names


def test_the_columns_that_matter_are_kept_of_ten_thousand_and_are_in_the_weights(tmp_path: Path) -> None:
    names = write_wide(tmp_path)
    study = survival_study(
        local={"epochs": 10, "optimizer": {"learning_rate": 0.5}},
        data={"records": {"features": FEATURES[:1], "wide": {"columns": names, "keep": 10, "unit": "log2 counts"}}},
    )
    settings = {
        source.name: SiteSetting(
            study=study, source=source, state=str(tmp_path / source.name / "s"), store=str(tmp_path / "store")
        )
        for source in plan_sources(study, tmp_path)
    }
    with closing(InProcessDispatcher(settings)) as dispatcher:
        found = {site: dispatcher.prepare(site).result() for site in settings}
        fitted = fitted_to(study, found)
        initial = dispatcher.initialise(study, fitted).result()
        again = dispatcher.initialise(study, fitted_to(study, found)).result()
        store = FolderStore(tmp_path / "store")
        strategy = assemble(study).strategy
        result = simulate(study, strategy, dispatcher, store, sites=list(settings), training="t", initial=initial)
    assert again == initial  # a resumed training makes the same choice
    assert fitted is not None
    assert fitted.wide is not None
    assert set(TRUE) <= set(fitted.wide.chosen)
    assert result.state.weights["inputs.chosen"].long().tolist() == fitted.wide.chosen
    assert result.best.evaluation.metrics["concordance"].value > 0.75
    module = build_module(study).eval()
    module.load_state_dict(result.state.weights, strict=False)
    rows = torch.randn(4, 1 + WIDTH)
    rows[0, 1 + TRUE[0]] = float("nan")
    served = export_program(ServedSurvival(module.inputs, module.network, module.baseline), (1 + WIDTH,))  # type: ignore[arg-type, union-attr]
    torch.testing.assert_close(served.module()(rows), module.predictions(module(rows)))  # type: ignore[operator, union-attr]


def records(keep: int = 2) -> Records:
    """A table of one feature and four wide columns."""
    return Records.model_validate(
        {"features": FEATURES[:1], "wide": {"columns": ["a", "b", "c", "d"], "keep": keep}, "smallest_cell": 5}
    )


def sums(table: np.ndarray) -> TableSums:
    """Return a site's sums of a table whose outcome is its first column's sign."""
    wide = wide_sums(table, (table[:, 0] > 0).astype(np.int64), 5)
    return TableSums(features={"age": feature_sums(records().features[0], [40.0, 50, 60, 70, 80] * 4, 5)}, wide=wide)


def test_columns_of_too_few_values_are_not_told_and_cannot_be_kept() -> None:
    table = np.random.default_rng(2).normal(size=(20, 4))
    table[4:, 1], table[:, 2] = np.nan, 3.0
    told = sums(table)
    assert told.wide is not None
    assert (told.wide.known[1], told.wide.total[1], told.wide.score[1]) == (0, 0.0, 0.0)
    fitted = fit(records(), {"north": told})
    assert fitted.wide is not None
    assert fitted.wide.chosen == [0, 3]
    with pytest.raises(DataError, match=r"2 of 4 wide columns vary .*keep is 3: lower it"):
        fit(records(3), {"north": told})


def test_sums_of_other_columns_are_refused() -> None:
    honest = sums(np.random.default_rng(2).normal(size=(20, 4)))
    check_table_sums(records(), honest, "north")
    assert honest.wide is not None
    for change in ({"known": [1]}, {"squares": [-1.0] * 4}):
        bad = honest.model_copy(update={"wide": honest.wide.model_copy(update=change)})
        with pytest.raises(RefusedError, match="north: its sums do not fit the study's 4 wide columns"):
            check_table_sums(records(), bad, "north")
    with pytest.raises(RefusedError, match="north: its sums are not those"):
        check_table_sums(records(), honest.model_copy(update={"wide": None}), "north")
