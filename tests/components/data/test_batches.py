import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.data.batches import EvaluationBatches, TrainBatches

IMAGES = torch.arange(100.0).view(100, 1, 1, 1).expand(100, 1, 4, 4).contiguous()
LABELS = (torch.arange(100) % 10 == 0).long()
ROWS = torch.arange(20, 90)


def order(batches: TrainBatches) -> list[int]:
    return [int(image[0, 0, 0]) for images, _ in batches for image in images]


@given(st.integers(1, 80), st.integers(0, 2**62))
def test_a_pass_holds_every_training_item_once(batch_size: int, seed: int) -> None:
    batches = TrainBatches(IMAGES, LABELS, ROWS, batch_size, seed)
    parts = list(batches)
    assert len(parts) == len(batches)
    assert [len(labels) for _, labels in parts[:-1]] == [batch_size] * (len(parts) - 1)
    seen = torch.cat([images[:, 0, 0, 0] for images, _ in parts])
    assert sorted(seen.tolist()) == ROWS.tolist()
    assert torch.equal(torch.cat([labels for _, labels in parts]), LABELS[seen.long()])


def test_the_seed_and_the_pass_decide_the_order() -> None:
    one, two = TrainBatches(IMAGES, LABELS, ROWS, 16, 1), TrainBatches(IMAGES, LABELS, ROWS, 16, 1)
    first, second = order(one), order(one)
    assert first != second
    assert [order(two), order(two)] == [first, second]
    assert order(TrainBatches(IMAGES, LABELS, ROWS, 16, 2)) != first


def test_an_iterator_that_is_not_used_is_no_pass() -> None:
    batches = TrainBatches(IMAGES, LABELS, ROWS, 16, 1)
    iter(batches)
    assert order(batches) == order(TrainBatches(IMAGES, LABELS, ROWS, 16, 1))


def test_augmentation_is_drawn_anew_in_each_pass_and_again_for_the_same_seed() -> None:
    def drawn(batches: TrainBatches) -> torch.Tensor:
        return torch.cat([images for images, _ in batches]).sort(0).values

    images = torch.rand(100, 1, 6, 6)
    one = TrainBatches(images, LABELS, ROWS, 16, 1, kinds=("noise",))
    two = TrainBatches(images, LABELS, ROWS, 16, 1, kinds=("noise",))
    first = drawn(one)
    assert torch.equal(first, drawn(two))
    assert not torch.equal(first, drawn(one))


def test_balanced_draws_each_class_equally_often_from_the_training_items() -> None:
    batches = TrainBatches(IMAGES, LABELS, ROWS, 16, 1, balanced=True)
    labels = torch.cat([labels for _ in range(40) for _, labels in batches])
    assert len(labels) == 40 * len(ROWS)
    assert abs(float(labels.float().mean()) - 0.5) < 0.04  # three standard errors
    assert set(order(batches)) <= set(ROWS.tolist())
    assert order(TrainBatches(IMAGES, LABELS, ROWS, 16, 1, balanced=True)) == order(
        TrainBatches(IMAGES, LABELS, ROWS, 16, 1, balanced=True)
    )


def test_balanced_multilabel_draws_each_combination_equally_often() -> None:
    labels = torch.tensor([[1.0, 1.0]] * 5 + [[0.0, 1.0]] * 20 + [[0.0, 0.0]] * 75)
    batches = TrainBatches(IMAGES, labels, torch.arange(100), 16, 1, balanced=True)
    drawn = torch.cat([batch for _ in range(40) for _, batch in batches])
    assert abs(float((drawn.sum(1) == 2).float().mean()) - 1 / 3) < 0.03


@pytest.mark.parametrize("rows", [ROWS, ROWS[:0]])
def test_evaluation_keeps_the_order_and_may_be_empty(rows: torch.Tensor) -> None:
    batches = EvaluationBatches(IMAGES, LABELS, rows, 16)
    for _ in range(2):
        parts = list(batches)
        assert len(parts) == len(batches)
        assert [int(image[0, 0, 0]) for images, _ in parts for image in images] == rows.tolist()


@pytest.mark.parametrize(("items", "sizes"), [(9, [4, 5]), (8, [4, 4]), (10, [4, 4, 2]), (1, [1])])
def test_a_single_last_item_joins_the_batch_before_it(items: int, sizes: list[int]) -> None:
    images, labels = torch.arange(items).float().reshape(-1, 1, 1, 1), torch.zeros(items, dtype=torch.int64)
    batches = TrainBatches(images, labels, torch.arange(items), batch_size=4, seed=1)
    taken = [batch[0].flatten() for batch in batches]
    assert [len(part) for part in taken] == sizes
    assert len(batches) == len(sizes)
    assert sorted(torch.cat(taken).tolist()) == list(range(items))
