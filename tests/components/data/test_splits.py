from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from components.data.splits import assign_splits, conflicting_patients
from components.study import Splits

FRACTIONS = Splits()
patients_and_classes = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab")), min_size=1, max_size=80)


def split_of(items: list[tuple[int, str]], seed: int = 1) -> list[str]:
    patients = [f"P{patient}" for patient, _ in items]
    return list(
        assign_splits(patients, [label for _, label in items], [None] * len(items), fractions=FRACTIONS, seed=seed)
    )


@given(patients_and_classes, st.integers(0, 2**32 - 1))
def test_no_patient_is_in_two_splits(items: list[tuple[int, str]], seed: int) -> None:
    homes = defaultdict(set)
    for (patient, _), split in zip(items, split_of(items, seed), strict=True):
        homes[patient].add(split)
    assert all(len(splits) == 1 for splits in homes.values())


@given(patients_and_classes, st.integers(0, 2**32 - 1))
def test_three_patients_are_enough_for_three_splits_and_for_each_class(items: list[tuple[int, str]], seed: int) -> None:
    splits = split_of(items, seed)
    assert "train" in splits
    if len({patient for patient, _ in items}) >= 3:
        assert set(splits) == {"train", "validation", "test"}
    last = {patient: max(label for other, label in items if other == patient) for patient, _ in items}
    for label, count in Counter(last.values()).items():
        seen = {split for (patient, _), split in zip(items, splits, strict=True) if last[patient] == label}
        assert count < 3 or seen == {"train", "validation", "test"}


@given(patients_and_classes, st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_nothing(items: list[tuple[int, str]], random: object) -> None:
    splits = dict(zip(items, split_of(items), strict=True))
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert dict(zip(shuffled, split_of(shuffled), strict=True)) == splits


@given(st.integers(8, 300), st.integers(8, 300), st.integers(0, 1000))
def test_each_class_has_most_of_its_share_in_each_split(first: int, second: int, seed: int) -> None:
    items = [(number, "a" if number < first else "b") for number in range(first + second)]
    splits = split_of(items, seed)
    for label, patients in (("a", first), ("b", second)):
        counted = Counter(split for (_, own), split in zip(items, splits, strict=True) if own == label)
        for split in ("train", "validation", "test"):
            assert counted[split] >= max(1, int(0.75 * getattr(FRACTIONS, split) * patients))


@given(st.integers(0, 1000))
def test_new_patients_do_not_move_old_ones_at_a_large_site(seed: int) -> None:
    items = [(number, "a") for number in range(2000)]
    assert split_of(items, seed)[:1500] == split_of(items[:1500], seed)


@given(st.integers(5, 80), st.integers(0, 1000))
def test_a_new_patient_moves_an_old_one_at_the_most_where_a_share_must_be_kept(patients: int, seed: int) -> None:
    items = [(number, "a") for number in range(patients + 1)]
    before, after = split_of(items[:-1], seed), split_of(items, seed)[:-1]
    assert sum(old != new for old, new in zip(before, after, strict=True)) <= 3


def test_fractions_hold_in_the_long_run() -> None:
    counted = Counter(split_of([(number, "a") for number in range(4000)]))
    assert abs(counted["train"] / 4000 - 0.7) < 0.03
    assert abs(counted["test"] / 4000 - 0.15) < 0.03


def test_the_seed_decides() -> None:
    items = [(number, "a") for number in range(50)]
    assert split_of(items, 1) == split_of(items, 1) != split_of(items, 2)


def test_known_patients_stay_where_they_are_on_every_machine() -> None:
    assert split_of([(number, "a") for number in range(8)], 7) == EXPECTED


def test_a_split_the_source_names_is_kept_and_a_missing_one_is_drawn_from_training() -> None:
    named = ["train"] * 30 + ["test"] * 5
    patients = [f"P{number}" for number in range(35)]
    splits = assign_splits(patients, ["a"] * 35, named, fractions=FRACTIONS, seed=1)  # type: ignore[arg-type]
    assert splits[30:] == ["test"] * 5
    assert set(splits[:30]) == {"train", "validation"}


def test_all_named_splits_are_kept() -> None:
    named = ["train", "validation", "test", "train"]
    splits = assign_splits(list("abcd"), ["x"] * 4, named, fractions=FRACTIONS, seed=1)  # type: ignore[arg-type]
    assert splits == named


def test_a_patient_in_two_named_splits_is_found() -> None:
    assert conflicting_patients(["a", "a", "b"], ["train", "test", "train"]) == {"a"}


EXPECTED = ["validation", *["train"] * 6, "test"]
