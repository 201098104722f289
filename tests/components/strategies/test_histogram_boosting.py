"""A level of a tree from summed histograms: worked by hand, in any order of sites, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.rounds import ServerState, Update
from components.strategies import HistogramBoosting
from components.strategies.histogram_boosting import NETWORK
from models.base import Objective
from models.trees import TreesModel

MISSING = 4  # the last slot: bins 0 to 2, together, missing
PLAIN = HistogramBoosting(learning_rate=0.5, l2=1.0, min_child_weight=0.0)


def first(strategy: HistogramBoosting = PLAIN, categories: tuple[int, ...] = (0, 0), depth: int = 2) -> ServerState:
    """The state of two trees over columns with three bins each, after the round that found the first chance."""
    arguments = {"trees": 2, "depth": depth, "bins": 3}
    model = TreesModel(categories, arguments, objective=Objective("binary", 2))
    model.network.set_edges([[10.0, 20.0] if count == 0 else [] for count in categories])
    model.network.place.zero_()
    return strategy.init(dict(model.state_dict()) | {NETWORK + "sums": model.network.sums.clone()})


def update(state: ServerState, cells: dict[tuple[int, int, int], tuple[float, float]], site: str = "a") -> Update:
    """An update whose sums are these, by node, feature and slot."""
    weights = {name: tensor.clone() for name, tensor in state.weights.items()}
    for (node, feature, slot), (gradient, curvature) in cells.items():
        weights[NETWORK + "sums"][0, node, feature, slot] = torch.tensor([gradient, curvature], dtype=torch.float64)
    return Update(site, state.round + 1, weights, weight=9)


def entry(state: ServerState, name: str) -> Any:
    return state.weights[NETWORK + name][0, 0].tolist()


def test_a_root_worked_by_hand() -> None:
    state = first()
    sent = update(state, {
        (0, 0, 0): (3.0, 2.0), (0, 0, 1): (-1.0, 1.0), (0, 0, 2): (-4.0, 3.0),
        (0, 1, 0): (-2.0, 6.0),
    })  # fmt: skip
    after = PLAIN.aggregate(state, [sent])
    # Feature 0, below 10: 3^2/3 + 5^2/5 - 2^2/7, half of it; below 20: 2^2/4 + 4^2/4 - 2^2/7 is less.
    assert entry(after, "feature") == [0.0, -1.0, -1.0]
    assert entry(after, "threshold")[0] == 10.0
    assert entry(after, "gain")[0] == pytest.approx((3 + 5 - 4 / 7) / 2)
    assert entry(after, "value")[:3] == pytest.approx([0.5 * 2 / 7, -0.5 * 3 / 3, 0.5 * 5 / 5])
    assert entry(after, "weight")[:3] == [6.0, 2.0, 4.0]
    assert after.weights[NETWORK + "place"].tolist() == [0.0, 1.0]
    assert after.round == 1


def test_rows_without_a_value_go_where_they_gain_more() -> None:
    state = first(categories=(0,))
    cells = {(0, 0, 0): (4.0, 2.0), (0, 0, 2): (-4.0, 2.0), (0, 0, MISSING): (-3.0, 2.0)}
    assert entry(PLAIN.aggregate(state, [update(state, cells)]), "missing_right")[0] == 1.0
    cells[0, 0, MISSING] = (3.0, 2.0)
    assert entry(PLAIN.aggregate(state, [update(state, cells)]), "missing_right")[0] == 0.0


def test_where_nobody_lacks_the_value_the_larger_side_takes_those_who_will() -> None:
    state = first(categories=(0,))
    for weights, right in (((2.0, 3.0), 1.0), ((3.0, 2.0), 0.0)):
        cells = {(0, 0, 0): (4.0, weights[0]), (0, 0, 2): (-4.0, weights[1])}
        assert entry(PLAIN.aggregate(state, [update(state, cells)]), "missing_right")[0] == right


def test_that_a_value_is_missing_can_be_all_that_counts() -> None:
    state = first(categories=(0,))
    cells = {(0, 0, 0): (2.0, 2.0), (0, 0, 2): (2.0, 2.0), (0, 0, MISSING): (-6.0, 2.0)}
    after = PLAIN.aggregate(state, [update(state, cells)])
    assert (entry(after, "missing_right")[0], entry(after, "threshold")[0]) == (1.0, torch.finfo(torch.float32).max)


def test_a_category_is_split_from_all_others() -> None:
    state = first(categories=(3,))
    cells = {(0, 0, 0): (1.0, 1.0), (0, 0, 1): (-5.0, 2.0), (0, 0, 2): (1.0, 1.0), (0, 0, 4): (2.0, 1.0)}  # 4: together
    after = PLAIN.aggregate(state, [update(state, cells)])
    assert entry(after, "threshold")[0] == 1.0
    assert entry(after, "weight")[:3] == [5.0, 3.0, 2.0]  # the others on the left, whatever they were


@pytest.mark.parametrize(
    ("rule", "split"), [({}, True), ({"min_gain": 4.0}, False), ({"min_child_weight": 2.5}, False)]
)
def test_a_split_must_gain_enough_and_have_enough_on_both_sides(rule: dict[str, float], split: bool) -> None:
    strategy = HistogramBoosting(**{"min_child_weight": 0.0, **rule})
    state = first(strategy, categories=(0,))
    sent = update(state, {(0, 0, 0): (3.0, 2.0), (0, 0, 2): (-5.0, 4.0)})
    after = strategy.aggregate(state, [sent])
    assert (entry(after, "feature")[0] >= 0) is split
    assert after.weights[NETWORK + "place"].tolist() == ([0.0, 1.0] if split else [1.0, 0.0])


def test_what_rounding_leaves_of_a_split_that_changes_nothing_is_no_gain() -> None:
    state = first(categories=(0,))
    strategy = HistogramBoosting(l2=0.0, min_child_weight=0.0)
    sent = update(state, {(0, 0, 0): (0.1, 0.3), (0, 0, 1): (0.2, 0.6), (0, 0, 2): (0.3, 0.9)})
    assert entry(strategy.aggregate(state, [sent]), "feature")[0] == -1.0


def test_the_first_round_finds_how_frequent_the_outcome_is() -> None:
    state = first()
    state.weights[NETWORK + "place"][0] = -1
    after = PLAIN.aggregate(
        state, [update(state, {(0, 0, 0): (30.0, 120.0)}), update(state, {(0, 0, 0): (20.0, 80.0)}, "b")]
    )
    assert after.weights[NETWORK + "base"].tolist() == pytest.approx([math.log(50 / 150)])
    assert after.weights[NETWORK + "place"].tolist() == [0.0, 0.0]


@given(data=st.data())
def test_how_rows_are_divided_among_sites_does_not_matter(data: Any) -> None:
    state = first()
    slots = [(0, feature, slot) for feature in range(2) for slot in (0, 1, 2, MISSING)]
    whole = st.integers(-(2**36), 2**36).map(lambda value: value * 2.0**-30)
    parts = [{slot: (data.draw(whole), abs(data.draw(whole))) for slot in slots} for _ in range(3)]
    sums = {slot: tuple(np.sum([part[slot] for part in parts], axis=0)) for slot in slots}
    apart = [update(state, part, site) for part, site in zip(parts, "abc", strict=True)]
    together = PLAIN.aggregate(state, [update(state, sums)])
    assert all(
        torch.equal(PLAIN.aggregate(state, apart).weights[name], found) for name, found in together.weights.items()
    )


def test_trees_are_the_coordinators_whatever_a_site_sends() -> None:
    state = first()
    sent = update(state, {(0, 0, 0): (3.0, 2.0), (0, 0, 2): (-5.0, 4.0)})
    expected = PLAIN.aggregate(state, [sent])
    for name in sent.weights.keys() - {NETWORK + "sums"}:
        sent.weights[name].fill_(7.0)
    found = PLAIN.aggregate(state, [sent])
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())
    assert not found.weights[NETWORK + "sums"].any()


def test_aggregate_changes_neither_state_nor_updates() -> None:
    state = first()
    sent = update(state, {(0, 0, 0): (3.0, 2.0), (0, 0, 2): (-5.0, 4.0)})
    before = [{name: tensor.clone() for name, tensor in weights.items()} for weights in (state.weights, sent.weights)]
    PLAIN.aggregate(state, [sent])
    for kept, weights in zip(before, (state.weights, sent.weights), strict=True):
        assert all(torch.equal(kept[name], weights[name]) for name in kept)


def test_what_are_no_trees_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a network of the kind BoostedTrees"):
        PLAIN.init({"w": torch.zeros(2)})


def test_updates_that_cannot_be_added_are_refused() -> None:
    state = first()
    one, other = update(state, {}, "a"), update(state, {}, "b")
    with pytest.raises(ValueError, match="at least one update"):
        PLAIN.aggregate(state, [])
    with pytest.raises(ValueError, match="in the order of site names"):
        PLAIN.aggregate(state, [other, one])
    other.weights[NETWORK + "sums"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'b' has no entry .* that can be added"):
        PLAIN.aggregate(state, [one, other])
