"""Fates drawn over real patients: the patients are the real ones, and what is known holds of what was drawn."""

from collections import Counter

import numpy as np
import pytest

from components.data.known import default_data_root
from components.data.known_effects import KnownTrial
from components.data.known_regions import RegionsPlan, draw_regions, read_patients

STAGES = ("IIA", "IIB", "IIIA", "IIIC")
needs_patients = pytest.mark.skipif(
    not (default_data_root() / "tcga_brca").is_dir(), reason="WARDROUND_DATA has no tcga_brca"
)


def patient(number: int) -> dict[str, str]:
    """A row as the real table has it, of made-up values."""
    stages = {f"ajcc_pathologic_stage_Stage {name}": str(int(number % 6 == at)) for at, name in enumerate(STAGES)}
    return {"pid": f"P{number}", "age_at_index": str(40 + number % 40), **stages,
            "E": "0.0", "T": "77.0", "region": ("north", "south")[number % 2]}  # fmt: skip


def column(trial: KnownTrial, name: str) -> np.ndarray:
    return np.array([row[trial.columns.index(name)] for row in trial.rows])


def test_who_the_patients_are_is_kept_and_what_became_of_them_is_not() -> None:
    patients = [patient(number) for number in range(60)]
    trial = draw_regions(RegionsPlan(genes=20), patients)
    kept = [name for name in patients[0] if name not in ("E", "T")]
    assert trial.columns[: len(kept)] == kept
    assert [row[: len(kept)] for row in trial.rows] == [[row[name] for name in kept] for row in patients]
    assert not {"E", "T"} & set(trial.columns)
    assert trial.columns[len(kept) :] == [*(f"gene_{n:02d}" for n in range(1, 21)), "drug", "outcome", "days", "died"]


def test_equal_plans_draw_equal_fates_and_other_seeds_others() -> None:
    patients = [patient(number) for number in range(60)]
    one, again, other = (draw_regions(RegionsPlan(seed=seed), patients) for seed in (1, 1, 2))
    assert one.rows == again.rows
    assert (column(one, "drug") != column(other, "drug")).any()
    assert np.array_equal(one.benefit, again.benefit)


def test_what_is_known_holds_of_what_was_drawn() -> None:
    trial = draw_regions(RegionsPlan(genes=20), [patient(number) for number in range(12_000)])
    arm, relapse, days = column(trial, "drug") == "yes", column(trial, "outcome") == "relapse", column(trial, "days")
    assert arm.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / len(arm)))
    for number in (0, 1):
        for half in (trial.benefit > 0, trial.benefit <= 0):
            chosen = (arm == bool(number)) & half
            error = np.sqrt(0.25 / chosen.sum())
            assert relapse[chosen].mean() == pytest.approx(trial.chances[chosen, number].mean(), abs=4 * error)
        # everybody is seen for a year at least: up to then nothing is censored
        lived = np.minimum(days[arm == bool(number)].astype(float), 365.0)
        known = trial.mean_survival(365.0)[arm == bool(number), number].mean()
        assert lived.mean() == pytest.approx(known, abs=4 * lived.std() / np.sqrt(len(lived)) + 0.5)


def test_four_genes_the_age_and_the_stage_decide_about_the_benefit() -> None:
    patients = [patient(number) for number in range(4_000)]
    trial = draw_regions(RegionsPlan(genes=20), patients)
    odds = np.log(trial.chances / (1 - trial.chances))
    effect = odds[:, 1] - odds[:, 0]
    genes = np.stack([column(trial, f"gene_{number:02d}").astype(float) for number in range(1, 21)], axis=1)
    late = np.array([row["pid"] for row in patients if int(row["pid"][1:]) % 6 in (2, 3)])
    inputs = np.column_stack([np.ones(4_000), genes, column(trial, "age_at_index").astype(float) / 10,
                              np.isin(column(trial, "pid"), late)])  # fmt: skip
    found = np.linalg.lstsq(inputs, effect, rcond=None)[0].round(3)
    assert found[-2:].tolist() == [0.3, 0.6]
    decisive = {place: value for place, value in enumerate(found[1:21].tolist(), start=1) if value}
    assert decisive == {2: 0.9, 7: -0.7, 12: 0.6, 17: -0.5}


@needs_patients
def test_the_real_patients_are_all_there_and_some_are_helped_and_some_harmed() -> None:
    trial = draw_regions(RegionsPlan(), read_patients("made:regions", default_data_root()))
    assert Counter(column(trial, "region").tolist()) == {
        "northeast": 311, "south": 196, "west": 206, "midwest": 162, "europe": 162, "canada": 51,
    }  # fmt: skip
    assert 0.4 < (trial.benefit > 0).mean() < 0.75
    assert trial.benefit.std() > 0.15
    assert abs(trial.benefit.mean()) < 0.03
    assert 300 < (column(trial, "died") == "1").sum() < 700


def test_too_few_genes_are_refused() -> None:
    with pytest.raises(ValueError, match="20 genes at least, given 10"):
        RegionsPlan(genes=10)
