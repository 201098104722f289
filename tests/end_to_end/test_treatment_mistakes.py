"""What can be wrong with a study of treatments, or at one of its hospitals, and what is said of it."""

import csv
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data.known_effects import KnownTrial, TrialPlan, draw_trial
from components.errors import RefusedError, StudyError
from components.federation import metrics_of, undefined_of
from components.site_effects import agreement_warnings, agreements
from components.study_file import load_study
from flows.results import treatment_warnings
from tests.end_to_end.recommended import dispatcher_of, recommend
from tests.references.tiny_table import write_table
from tests.references.tiny_treatment import (
    PLAN,
    rows_of,
    survival_changes,
    treatment_study,
    write_hospitals,
    write_study,
    x_learner,
)

pytestmark = pytest.mark.timeout(300)


def at_south(trial: KnownTrial, change: Callable[[dict[str, Any]], dict[str, Any]]) -> KnownTrial:
    """A trial with the rows of one hospital changed."""
    rows = [change(row) if row["hospital"] == "south" else row for row in rows_of(trial)]
    return replace(trial, rows=[[row[name] for name in trial.columns] for row in rows])


ARMS, LABELS = ("drug", {"no": "yes", "yes": "no"}), ("outcome", {"well": "relapse", "relapse": "well"})


@pytest.mark.parametrize(
    ("changes", "swap"),
    [({}, ARMS), ({}, LABELS), (survival_changes(), ARMS)],
    ids=["relapse, arms", "relapse, labels", "survival, arms"],
)
def test_a_hospital_that_has_something_the_wrong_way_round_is_named(
    tmp_path: Path, changes: dict[str, Any], swap: tuple[str, dict[str, str]]
) -> None:
    trial, (column, other) = draw_trial(TrialPlan(patients=3000, genes=5)), swap
    spoilt = at_south(trial, lambda row: row | {column: other[row[column]]})
    study, found = treatment_study(**changes), []
    for number, drawn in enumerate((trial, spoilt)):
        tested = recommend(tmp_path / str(number), drawn, **changes).tested
        by_site = {site: metrics_of(study, sums) for site, sums in tested.by_site.items()}
        found.append(agreement_warnings(agreements(by_site)))
    assert found[0] == []
    assert [text.partition(":")[0] for text in found[1] if "labels, swapped" in text] == ["south"]


def reason(folder: Path, change: dict[str, str | None], **changes: Any) -> str:
    """Let a hospital with a spoilt table prepare; return why it cannot take part. None takes the column away."""
    write_hospitals(folder)
    path = folder / "south" / "patients.csv"
    with path.open() as file:
        spoilt = [{key: value for key, value in (row | change).items() if value is not None}
                  for row in csv.DictReader(file)]  # fmt: skip
    write_table(path, spoilt)
    with closing(dispatcher_of(treatment_study(**changes), folder)) as dispatcher:
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
    ("change", "words"),
    [
        ({"drug": "yes"}, r"all of its \d+ training patients have the arm yes"),
        (
            {"died": "0"},
            r"no event was seen in its \d+ training items, and a partial likelihood learns from events only",
        ),
        ({"days": "2"}, r"the median of its times is not between 100 and 3000 days"),
        ({"days": "-3"}, r"its times are out of their range of 0 to inf \(days\) in \d+ of \d+ rows: are they in an"),
        ({"died": None}, "died"),
    ],
)
def test_a_hospital_that_can_say_nothing_of_survival_says_why(
    tmp_path: Path, change: dict[str, str | None], words: str
) -> None:
    message = reason(tmp_path, change, **survival_changes(typical=[100, 3000]))
    assert message.startswith("site south: ")
    assert re.search(words, message), message


@pytest.mark.parametrize("changes", [{}, survival_changes()], ids=["relapse", "survival"])
def test_effects_that_do_not_converge_are_told(tmp_path: Path, changes: dict[str, Any]) -> None:
    steps = {"local": {"epochs": 60, "optimizer": {"learning_rate": 300.0}}}
    with pytest.raises(RefusedError, match=r"lower local\.optimizer\.learning_rate"):
        recommend(tmp_path, draw_trial(PLAN), **x_learner(**changes) | steps)


def test_a_feature_that_gives_the_outcome_away_leaves_finite_benefits_and_is_told(tmp_path: Path) -> None:
    trial = draw_trial(TrialPlan(patients=900, genes=5))
    outcome, gene = (trial.columns.index(name) for name in ("outcome", "gene_05"))
    for row in trial.rows:
        row[gene] = "4" if row[outcome] == "relapse" else "-4"
    learned = recommend(tmp_path, trial)
    assert np.isfinite(learned.found).all()
    assert learned.tested.metrics["auroc"].value == 1
    reason = undefined_of(treatment_study(), learned.tested.pooled)["calibration_slope"]
    assert reason == "the scores tell the classes apart without an error"


def test_where_everybody_is_censored_early_nothing_is_told_of_benefits_and_a_warning_names_the_hospital(
    tmp_path: Path,
) -> None:
    early, changes = {"died": "0", "days": "200"}, x_learner(**survival_changes(loss="hazards"))
    learned = recommend(tmp_path, at_south(draw_trial(PLAN), lambda row: row | early), **changes)
    assert [site for site, sums in learned.tested.by_site.items() if sums.treatment is None] == ["south"]
    [*_, said] = treatment_warnings(treatment_study(**changes), learned.tested, {})
    assert said.startswith("south: too few test patients of an arm had, or did not have, the outcome, or were followed")
    assert np.isfinite(learned.found).all()
    assert "qini" in learned.tested.metrics


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
        (survival_changes() | {"strategy": {"name": "FedPer"}}, "whose baseline hazard is of all sites"),
        ({"strategy": {"name": "FedPer"}, "network": {"name": "LogisticRegression"}},
         "given LogisticRegression; must be MLP or a network for images with FedPer"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_is_refused_with_its_field(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        load_study(write_study(tmp_path, **changes))
