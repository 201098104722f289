import pytest
import torch

from components.data.labels import MISSING, OUTSIDE, class_counts, label_tensor, parse_label
from components.data.quarantine import UnusableItemError
from components.study import Task

BINARY = Task(classes=["normal", "sick"])
MULTILABEL = Task(kind="multilabel", classes=["a", "b", "c"])


@pytest.mark.parametrize("value", [1, "1", " sick ", 1.0, [1], ["sick"]])
def test_a_class_is_given_by_name_or_index(value: object) -> None:
    assert parse_label(value, BINARY) == 1


def test_a_name_goes_before_an_index() -> None:
    assert parse_label("1", Task(classes=["1", "0"])) == 0


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
def test_no_label_is_missing(value: object) -> None:
    with pytest.raises(UnusableItemError, match=MISSING):
        parse_label(value, BINARY)


@pytest.mark.parametrize("value", [2, -1, "2", "-1", "Sick", "²", 0.5, True, [0, 1], {"a": 1}, float("inf")])
def test_a_label_that_is_no_class_is_outside(value: object) -> None:
    with pytest.raises(UnusableItemError, match=OUTSIDE):
        parse_label(value, BINARY)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a|c", (1, 0, 1)), ("b", (0, 1, 0)), ("none", (0, 0, 0)), ([], (0, 0, 0)),
        (["c", "a"], (1, 0, 1)), ([1, 0, 1], (1, 0, 1)), ([0.0, 1.0, 0.0], (0, 1, 0)),
    ],
)  # fmt: skip
def test_several_classes(value: object, expected: tuple[int, ...]) -> None:
    assert parse_label(value, MULTILABEL) == expected


@pytest.mark.parametrize("value", [1, [1, 0], [1, 2, 0], "a|d", [True, False, True], [["a"]]])
def test_several_classes_outside(value: object) -> None:
    with pytest.raises(UnusableItemError, match=OUTSIDE):
        parse_label(value, MULTILABEL)


def test_tensors_and_counts() -> None:
    labels = label_tensor([0, 1, 1], BINARY)
    assert labels.dtype == torch.int64
    assert class_counts(labels, BINARY) == [1, 2]
    several = label_tensor([(1, 0, 1), (1, 0, 0)], MULTILABEL)
    assert several.dtype == torch.float32
    assert class_counts(several, MULTILABEL) == [2, 0, 1]
    assert label_tensor([], MULTILABEL).shape == (0, 3)
