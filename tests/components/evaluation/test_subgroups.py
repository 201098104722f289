"""Who belongs to which subgroup, and that nothing told gives a small one, directly or by subtraction."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import RefusedError
from components.evaluation.histograms import add_sums, check_sums, sums_from_scores
from components.evaluation.subgroups import group_masks, may_be_told
from components.features import Feature, Records, Subgroup
from components.rounds import ScoreSums

RECORDS = Records(
    features=[
        Feature(name="age"),
        Feature(name="sex", type="boolean"),
        Feature(name="pain", type="categorical", categories=["none", "some"]),
    ]
)
CLASSES = ("well", "ill")


def sums(ill: int, well: int) -> ScoreSums:
    labels = np.array([1] * ill + [0] * well)
    score = np.linspace(0.1, 0.9, ill + well)
    return sums_from_scores(score, labels, kind="binary", classes=CLASSES, bins=10, threshold=0.5)


def test_bands_begin_at_their_edge_and_a_missing_value_is_in_none() -> None:
    nan = float("nan")
    table = torch.tensor([[49.9, 0, 1], [50.0, 1, nan], [64.0, nan, 0], [65.0, 1, 1], [nan, 0, 0]])
    wanted = [Subgroup(feature="age", edges=[50, 65]), Subgroup(feature="sex"), Subgroup(feature="pain")]
    masks = {name: mask.nonzero()[0].tolist() for name, mask in group_masks(RECORDS, wanted, table).items()}
    assert masks == {
        "age below 50": [0], "age 50 to 65": [1, 2], "age 65 and above": [3],
        "sex no": [0, 4], "sex yes": [1, 3], "pain none": [2, 4], "pain some": [0, 3],
    }  # fmt: skip


def test_a_small_group_takes_its_complement_with_it() -> None:
    groups = {"men": sums(20, 30), "women": sums(3, 10)}
    assert may_be_told(sums(23, 40), groups, 5) == []


def test_large_groups_are_told() -> None:
    assert may_be_told(sums(40, 40), {"men": sums(20, 30), "women": sums(20, 10)}, 5) == ["men", "women"]


def test_a_few_without_a_value_hide_one_more_group() -> None:
    groups = {"a": sums(20, 20), "b": sums(10, 10)}
    assert may_be_told(sums(32, 30), groups, 5) == ["a"]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=5), st.integers(0, 6))
def test_nothing_that_is_told_gives_a_small_cell(cells: list[tuple[int, int]], unknown: int) -> None:
    groups = {str(number): sums(*cell) for number, cell in enumerate(cells)}
    whole = add_sums([*groups.values(), sums(unknown, 0)])
    told = may_be_told(whole, groups, 5)
    rest = [whole.count - sum(groups[name].count for name in told)]
    for place in range(2):
        left = [sum(map(sum, whole.positives)), sum(map(sum, whole.negatives))][place]
        for name in told:
            cell = cells[int(name)][place]
            assert cell == 0 or cell >= 5
            left -= cell
        rest.append(left)
    assert not told or not any(0 < left < 5 for left in rest[1:])


def test_groups_are_added_over_the_sites_that_tell_of_them() -> None:
    north = sums(10, 10).model_copy(update={"groups": {"men": sums(5, 5), "women": sums(5, 5)}})
    west = sums(7, 8).model_copy(update={"groups": {"men": sums(7, 8)}})
    groups = add_sums([north, west, sums(3, 3)]).groups
    assert {name: group.count for name, group in groups.items()} == {"men": 25, "women": 10}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"children": sums(5, 5)}, "subgroups that the study does not ask for"),
        ({"men": sums(50, 50)}, "an evaluation of 100 items, the site can have 20"),
        ({"men": sums(5, 5).model_copy(update={"groups": {"men": sums(5, 5)}})}, "subgroups that the study does not"),
    ],
)
def test_subgroups_that_cannot_be_are_refused(groups: dict[str, ScoreSums], message: str) -> None:
    sent = sums(10, 10).model_copy(update={"groups": groups})
    with pytest.raises(RefusedError, match=message):
        check_sums(sent, kind="binary", classes=CLASSES, bins=10, groups=["men", "women"])


def test_sums_without_subgroups_look_as_ever_on_the_wire() -> None:
    assert "groups" not in sums(3, 3).model_dump(mode="json")
    sent = sums(9, 9).model_copy(update={"groups": {"men": sums(5, 5)}})
    assert ScoreSums.model_validate_json(sent.model_dump_json()) == sent
