from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.partition import Divisible, partition, partition_by_column
from components.errors import DataError


@st.composite
def divisible(draw: st.DrawFn) -> Divisible:
    entries = draw(st.lists(st.tuples(st.integers(0, 25), st.sampled_from("ab")), min_size=4, max_size=90))
    splits = {patient: draw(st.sampled_from(["", "train"])) for patient, _ in entries}
    return Divisible(
        [f"P{patient}" for patient, _ in entries],
        [label for _, label in entries],
        [splits[patient] for patient, _ in entries],
    )


def alike(per_class: dict[str, int], split: str = "") -> Divisible:
    labels = [label for label, count in per_class.items() for _ in range(count)]
    return Divisible([str(index) for index in range(len(labels))], labels, [split] * len(labels))


@given(
    divisible(),
    st.sampled_from(["iid", "dirichlet:0.5", "dirichlet:5", "sizes:0.6,0.25,0.15", "sizes:0.5,0.5"]),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_every_item_is_at_one_site_and_every_patient_too(items: Divisible, plan: str, count: int, seed: int) -> None:
    try:
        sites = partition(items, plan, None if plan.startswith("sizes") else count, seed=seed)
    except DataError:
        return  # too few patients for that many sites; the tests below hold what may be refused
    assert sorted(index for site in sites for index in site) == list(range(len(items.patients)))
    homes = [{items.patients[index] for index in site} for site in sites]
    assert sum(map(len, homes)) == len(set(items.patients))
    assert all(sites)


@given(st.integers(20, 200), st.integers(20, 200), st.integers(0, 1000))
def test_sizes_are_met_to_an_item_and_classes_are_alike(first: int, second: int, seed: int) -> None:
    items = alike({"a": first, "b": second})
    for share, site in zip((0.6, 0.25, 0.15), partition(items, "sizes:0.6,0.25,0.15", None, seed=seed), strict=True):
        assert abs(len(site) - share * (first + second)) <= 1
        assert abs(sum(items.classes[index] == "a" for index in site) - share * first) <= 2


def test_each_named_split_is_divided_on_its_own() -> None:
    items = Divisible([str(n) for n in range(100)], ["a"] * 100, ["train"] * 80 + ["test"] * 20)
    for site in partition(items, "iid", 4, seed=3):
        assert Counter(items.splits[index] for index in site) == {"train": 20, "test": 5}


@given(st.integers(0, 100))
def test_a_small_concentration_gives_unequal_classes_a_large_one_equal_ones(seed: int) -> None:
    items = alike({"a": 300, "b": 300})

    def spread(plan: str) -> float:
        sites = partition(items, plan, 4, seed=seed)
        return float(np.std([np.mean([items.classes[index] == "a" for index in site]) for site in sites]))

    assert spread("dirichlet:1000") < 0.05 < spread("dirichlet:0.2")


def test_every_dirichlet_site_can_train_and_be_evaluated() -> None:
    items = Divisible([str(n) for n in range(200)], ["a", "b"] * 100, ["train"] * 150 + ["test"] * 50)
    for seed in range(10):
        for site in partition(items, "dirichlet:0.3", 5, seed=seed):
            assert len(site) >= 10
            assert len({items.classes[index] for index in site}) == 2
            assert {items.splits[index] for index in site} == {"train", "test"}


def test_the_same_seed_gives_the_same_sites() -> None:
    items = alike({"a": 50, "b": 30})
    for plan in ("iid", "dirichlet:0.5"):
        assert partition(items, plan, 3, seed=1) == partition(items, plan, 3, seed=1)
        assert partition(items, plan, 3, seed=1) != partition(items, plan, 3, seed=2)


@pytest.mark.parametrize(
    ("plan", "count", "says"),
    [("iid", 9, "fewer sites"), ("sizes:0.98,0.01,0.01", None, "larger shares"), ("dirichlet:0.001", 4, "larger conc")],
)
def test_what_cannot_be_divided_is_refused(plan: str, count: int | None, says: str) -> None:
    with pytest.raises(DataError, match=says):
        partition(alike({"a": 4, "b": 4}), plan, count, seed=1)


def test_a_column_names_the_sites_and_keeps_patients_together() -> None:
    sites = partition_by_column(["B ü", "A", "A", "B ü", "A"], ["p", "p", "p", "q", "r"])
    assert sites == {"A": [0, 1, 2, 4], "B": [3]}


@pytest.mark.parametrize("values", [["A", ""], ["?", "A"], ["A b", "A-b"], ["A", "Pooled"]])
def test_a_column_without_a_name_for_each_site_is_refused(values: list[str]) -> None:
    with pytest.raises(DataError, match="column to partition by"):
        partition_by_column(values, ["p", "q"])
