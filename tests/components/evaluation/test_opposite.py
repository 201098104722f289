"""Which sites are said to be the other way round: those that are clearly so, and nobody else."""

import pytest

from components.evaluation.intervals import Estimate
from components.evaluation.opposite import opposite_sites

RIGHT = {"east": Estimate(0.8, 0.72, 0.86, 100), "north": Estimate(0.75, 0.65, 0.83, 80)}


@pytest.mark.parametrize(
    ("item", "survival", "said"),
    [
        (Estimate(0.2, 0.1, 0.3, 90), False, "the wrong way round"),
        (Estimate(0.4, 0.3, 0.49, 90), False, "the wrong way round"),
        (Estimate(0.4, 0.3, 0.51, 90), False, ""),
        (Estimate(0.5, 0.42, 0.58, 90), False, ""),
        (Estimate(0.5, 0.42, 0.58, 90), True, "no better than chance"),
        (Estimate(0.4, 0.3, 0.49, 90), True, "the wrong way round"),
        (Estimate(0.62, 0.51, 0.72, 90), True, ""),
        (Estimate(0.5, 0.2, 0.8, 9), True, ""),
        (Estimate(0.0, 0.0, 0.0, 90), False, "the wrong way round"),
        (Estimate(1.0, 1.0, 1.0, 90), True, ""),
    ],
)
def test_a_site_is_named_where_it_is_clearly_unlike_the_others(item: Estimate, survival: bool, said: str) -> None:
    found = opposite_sites({**RIGHT, "west": item}, survival=survival)
    assert [text.partition(":")[0] for text in found] == ["west"] * bool(said)
    assert all(said in text for text in found)


def test_where_the_model_is_right_nowhere_nobody_is_named() -> None:
    wrong = Estimate(0.3, 0.2, 0.4, 90)
    assert opposite_sites({"east": wrong, "north": Estimate(0.5, 0.4, 0.6, 90)}, survival=False) == []
    assert opposite_sites({"east": wrong}, survival=True) == []


def test_what_it_is_at_the_others_is_their_mean_by_precision_without_the_site_itself() -> None:
    (said,) = opposite_sites({**RIGHT, "west": Estimate(0.2, 0.1, 0.3, 9000)}, survival=False)
    assert said == (
        "west: AUROC 0.20 [0.10 to 0.30], the model ranks its patients the wrong way round, and 0.78 at the other "
        "sites: are its labels swapped, or are its patients unlike the others'?"
    )
