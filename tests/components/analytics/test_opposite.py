"""Arms, or outcomes, that are exchanged at one of several sites are asked about in the notes; unlike sites are not."""

from typing import Any

import pandas as pd
import pytest

from components.analytics.opposite import logrank_effects
from components.analytics.records import SiteLogrank
from tests.components.analytics.hospitals import analysed, analysis, patients, study

SITES = {site: patients(seed, 400) for seed, site in enumerate(("east", "north", "west"))}


def notes(west: pd.DataFrame, **changes: Any) -> list[str]:
    """Analyse, with another table in the west; return what is asked."""
    found = analysed({**SITES, "west": west}, study(list(SITES), **changes))
    return [note for note in found.notes if "exchanged" in note]


def arms_exchanged() -> pd.DataFrame:
    frame = SITES["west"]
    return frame.assign(arm=frame["arm"].map({"placebo": "drug", "drug": "placebo"}))


@pytest.mark.parametrize("methods", [["logrank"], ["meta_analysis"], ["cox", "logrank", "meta_analysis"]])
@pytest.mark.parametrize("smallest", [1, 5])
def test_exchanged_arms_of_one_site_are_asked_about(methods: list[str], smallest: int) -> None:
    settings: dict[str, Any] = {"methods": methods, "disclosure": {"smallest_cell": smallest}}
    (said,) = notes(arms_exchanged(), **settings)
    assert said.startswith("west: the hazard ratio of arm: drug is 1.6")
    others = "0.668 (0.546 to 0.817)" if methods == ["logrank"] else "0.677 (0.561 to 0.815)"
    asked = "are its arms exchanged there, or are its patients unlike the others'?"
    assert said.endswith(f"at the other sites together {others}: {asked}")
    assert notes(SITES["west"], **settings) == []


@pytest.mark.parametrize("smallest", [1, 5])
def test_exchanged_events_of_one_site_are_asked_about(smallest: int) -> None:
    frame = SITES["west"]
    (said,) = notes(frame.assign(died=1 - frame["died"]), methods=["logrank"], disclosure={"smallest_cell": smallest})
    assert said == (
        "west: 27 % have the event, and at the other sites together 73 %: are events and censored exchanged there (1 "
        "is the event), or are its patients unlike the others'?"
    )


def test_a_site_with_fewer_events_is_not_taken_for_one_that_exchanged_them() -> None:
    frame = SITES["west"]
    half = frame.assign(died=frame["died"] * (frame.index % 2))
    assert 0.3 < half["died"].mean() < 0.45
    assert notes(half, methods=["logrank"]) == []


def test_a_site_where_the_arms_are_alike_is_not_taken_for_one_that_exchanged_them() -> None:
    frame = SITES["west"]
    mixed = frame.assign(arm=frame["arm"].sample(frac=1, random_state=1).to_numpy())
    assert notes(mixed, methods=["meta_analysis"]) == []


def test_two_sites_are_not_enough_to_say_which_is_the_other_way_round() -> None:
    two = {"east": SITES["east"], "west": arms_exchanged()}
    assert not [note for note in analysed(two, study(list(two))).notes if "exchanged" in note]


def test_a_logrank_effect_is_petos() -> None:
    sums = SiteLogrank(observed=[10.0, 4.0], expected=[8.0, 6.0], covariance=[[4.0, -4.0], [-4.0, 4.0]])
    effect = logrank_effects({"east": sums}, analysis())["east"]["arm: drug"]
    assert (effect.value, effect.error) == (-0.5, 0.5)
