import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.losses import class_weights, cross_entropy, focal, mean_cross_entropy, weighted


def random_case(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    if kind == "binary":
        return torch.randn(9, 1, generator=generator), torch.randint(0, 2, (9,), generator=generator)
    logits = torch.randn(9, 4, generator=generator)
    if kind == "multiclass":
        return logits, torch.randint(0, 4, (9,), generator=generator)
    return logits, torch.randint(0, 2, (9, 4), generator=generator).float()


def test_cross_entropy_worked_by_hand() -> None:
    # sigmoid(ln 3) = 3/4
    logits = torch.tensor([[math.log(3)], [math.log(3)]])
    losses = cross_entropy(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(losses, torch.tensor([[-math.log(0.75)], [-math.log(0.25)]]))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_mean_cross_entropy_is_the_mean_of_the_items(kind: str) -> None:
    logits, labels = random_case(kind)
    losses = cross_entropy(logits, labels)
    assert losses.shape == (9, 4 if kind == "multilabel" else 1)
    torch.testing.assert_close(mean_cross_entropy(logits, labels), losses.mean())


def test_focal_worked_by_hand() -> None:
    # p_t = 3/4: (1/4)^2 * -ln(3/4); p_t = 1/4: (3/4)^2 * -ln(1/4)
    logits = torch.tensor([[math.log(3)], [math.log(3)]])
    expected = torch.tensor([[-math.log(0.75) / 16], [-math.log(0.25) * 9 / 16]])
    torch.testing.assert_close(focal(logits, torch.tensor([1, 0])), expected)


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_focal_equals_monais(kind: str) -> None:
    from monai.losses.focal_loss import FocalLoss

    logits, labels = random_case(kind)
    targets = labels.float().reshape(logits.shape)
    theirs = FocalLoss(gamma=2.0, reduction="none")(logits, targets)
    torch.testing.assert_close(focal(logits, labels), theirs)


def test_focal_of_multiclass_equals_monais() -> None:
    from monai.losses.focal_loss import FocalLoss

    logits, labels = random_case("multiclass")
    theirs = FocalLoss(gamma=2.0, reduction="none", use_softmax=True)(logits, F.one_hot(labels, 4).float())
    torch.testing.assert_close(focal(logits, labels).squeeze(1), theirs.sum(1))


def test_focal_without_gamma_is_the_cross_entropy() -> None:
    logits, labels = random_case("multiclass")
    torch.testing.assert_close(focal(logits, labels, gamma=0.0), cross_entropy(logits, labels))


def test_focal_stays_finite_and_trains_at_certainty() -> None:
    logits = torch.tensor([[60.0], [-60.0]], requires_grad=True)
    focal(logits, torch.tensor([1, 1])).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_class_weights_worked_by_hand() -> None:
    # 60 / (3 * 10), 60 / (3 * 20), 60 / (3 * 30)
    weights = class_weights([10, 20, 30], 60, independent=False)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 1, 1], [2.0, 1.0, 2 / 3]]))


def test_class_weights_of_independent_labels_worked_by_hand() -> None:
    weights = class_weights([10, 40], 40, independent=True)
    torch.testing.assert_close(weights, torch.tensor([[40 / 60, 1.0], [2.0, 0.5]]))


def test_weights_add_up_to_the_number_of_items() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    weights = class_weights([7, 2, 1], 10, independent=False)
    total = weighted(torch.ones(10, 1), labels, weights).sum()
    torch.testing.assert_close(total, torch.tensor(10.0))


def test_weighted_multiclass_is_torchs_weighted_sum() -> None:
    logits, labels = random_case("multiclass")
    weights = class_weights(torch.bincount(labels, minlength=4).tolist(), 9, independent=False)
    theirs = F.cross_entropy(logits, labels, weight=weights[1], reduction="none")
    torch.testing.assert_close(weighted(cross_entropy(logits, labels), labels, weights).squeeze(1), theirs)


def test_weighted_multilabel_tells_having_from_not_having() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weights = torch.tensor([[2.0, 3.0], [5.0, 7.0]])
    torch.testing.assert_close(weighted(torch.ones(2, 2), labels, weights), torch.tensor([[5.0, 3.0], [2.0, 7.0]]))


@pytest.mark.parametrize("counts", [[-1, 3], [2, 11]])
def test_impossible_counts_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="class counts must be"):
        class_weights(counts, 10, independent=False)


def test_a_class_nobody_has_keeps_its_weight() -> None:
    assert class_weights([0, 10], 10, independent=False)[1].tolist() == [1.0, 0.5]
