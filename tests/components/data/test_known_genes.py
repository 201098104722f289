"""Made-up patients with thousands of genes: what is drawn is what is said to be known of it."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from components.data.known_genes import EFFECTS, SHIFT, GenePlan, KnownGenes, draw_genes, write_genes


@pytest.fixture(scope="module")
def drawn() -> KnownGenes:
    return draw_genes(GenePlan(patients=800, genes=1000, seed=2))


def test_the_first_components_are_the_programmes(drawn: KnownGenes) -> None:
    scores = PCA(n_components=8).fit_transform(drawn.values - drawn.values.mean(axis=0))
    found = np.linalg.lstsq(scores, drawn.activity[:, : len(EFFECTS)], rcond=None)[0]
    known = scores @ found
    for programme in range(len(EFFECTS)):
        assert np.corrcoef(known[:, programme], drawn.activity[:, programme])[0, 1] > 0.95


def test_programmes_and_single_genes_decide_the_hazard(drawn: KnownGenes) -> None:
    days, died = (np.array([float(row[place]) for row in drawn.rows]) for place in (3, 4))
    early = days[died == 1] < np.median(days[died == 1])
    risk = drawn.log_hazards[died == 1]
    assert risk[early].mean() - risk[~early].mean() > 0.5
    assert 0.3 < died.mean() < 0.9
    assert all(abs(np.corrcoef(drawn.values[:, place], drawn.log_hazards)[0, 1]) > 0.1 for place in drawn.single)


def test_hospitals_measure_with_shifts_of_their_own(drawn: KnownGenes) -> None:
    hospital = np.array([row[1] for row in drawn.rows])
    means = np.stack([drawn.values[hospital == name].mean(axis=0) for name in ("east", "north")])
    chance = 1.2 * np.sqrt(1 / (hospital == "east").sum() + 1 / (hospital == "north").sum())
    assert (means[0] - means[1]).std() == pytest.approx(np.sqrt(2 * SHIFT**2 + chance**2), rel=0.1)


def test_a_table_holds_nothing_that_nobody_knows(tmp_path: Path) -> None:
    found = draw_genes(GenePlan(patients=3, genes=50))
    write_genes(found, tmp_path / "genes.csv")
    lines = (tmp_path / "genes.csv").read_text().splitlines()
    assert lines[0].split(",") == ["patient", "hospital", "age", "days", "died", *found.names]
    assert len(lines) == 4
    assert [float(cell) for cell in lines[1].split(",")[5:]] == found.values[0].tolist()


def test_equal_seeds_draw_equal_patients() -> None:
    plan = GenePlan(patients=20, genes=50, seed=5)
    np.testing.assert_array_equal(draw_genes(plan).values, draw_genes(plan).values)
    with pytest.raises(ValueError, match="50 genes and 3 programmes at least"):
        GenePlan(genes=10)
