from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.errors import RefusedError
from components.rounds import Split
from components.training.evaluate import evaluate_site
from components.training.exchanged_entries import read_entries
from components.weights import digest
from models.base import Objective
from models.classification import ImageClassifier


class Fixed(nn.Module):
    """A classifier whose logits are its images: everything can be worked by hand."""

    probabilities = ImageClassifier.probabilities
    item_losses = ImageClassifier.item_losses

    def __init__(self, kind: Any, classes: int) -> None:
        super().__init__()
        self.objective = Objective(kind, classes)
        self.dropout = nn.Dropout(0.9)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(images.flatten(1))


class Items:
    def __init__(self, scores: Any, labels: Any) -> None:
        self.images, self.labels = torch.tensor(scores), torch.tensor(labels)

    def evaluation_batches(self, split: Split, *, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        half = (len(self.images) + 1) // 2
        return list(zip(self.images.split(half), self.labels.split(half), strict=True))


def logit(*scores: float) -> Any:
    return torch.logit(torch.tensor(scores, dtype=torch.float64)).float().reshape(len(scores), 1, 1, 1).tolist()


def test_binary_sums_worked_by_hand() -> None:
    data = Items(logit(0.2, 0.6, 0.7, 0.9, 0.4), [0, 0, 1, 1, 1])
    sums = evaluate_site(Fixed("binary", 2), data, "validation", bins=2, threshold=0.65, device="cpu")
    assert sums.negatives == [[1, 1]]
    assert sums.positives == [[1, 2]]
    assert sums.confusion == [[2, 0], [1, 2]]
    assert sums.score_sums[0] == pytest.approx([0.6, 2.2])
    assert sums.squared_error == pytest.approx([0.04 + 0.36 + 0.09 + 0.01 + 0.36])
    assert sums.loss == pytest.approx(-sum(torch.log(torch.tensor([0.8, 0.4, 0.7, 0.9, 0.4]))).item())
    assert (sums.count, sums.bins) == (5, 2)


def test_multiclass_counts_one_against_the_rest_and_the_most_probable_class() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.5, 0.3]])).tolist()
    sums = evaluate_site(Fixed("multiclass", 3), Items(logits, [0, 1, 2]), "test", bins=2, device="cpu")
    assert sums.confusion == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert sums.positives == [[0, 1], [0, 1], [1, 0]]
    assert sums.negatives == [[2, 0], [1, 1], [2, 0]]
    assert sums.loss == pytest.approx(-sum(torch.log(torch.tensor([0.7, 0.6, 0.3]))).item(), rel=1e-5)


def test_multilabel_has_no_confusion_table() -> None:
    data = Items([[4.0, -4.0], [4.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]])
    sums = evaluate_site(Fixed("multilabel", 2), data, "test", bins=2, device="cpu")
    assert sums.confusion == []
    assert sums.positives == [[0, 1], [0, 1]]
    assert sums.negatives == [[0, 1], [1, 0]]


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_no_items_give_empty_sums(kind: str) -> None:
    class Nothing:
        def evaluation_batches(self, split: Split, *, batch_size: int) -> list[tuple[Tensor, Tensor]]:
            return []

    sums = evaluate_site(Fixed(kind, 2), Nothing(), "test", bins=4, device="cpu")
    assert (sums.count, sums.loss) == (0, 0.0)


def test_the_module_leaves_as_it_came(make_model: Any, make_site: Any) -> None:
    model, site = make_model("dropout"), make_site()
    model.train()
    model.network.features[1].eval()  # a layer somebody froze
    before, modes = digest(read_entries(model)), [part.training for part in model.modules()]
    first = evaluate_site(model, site, "validation", bins=10, device="cpu")
    assert [part.training for part in model.modules()] == modes
    assert digest(read_entries(model)) == before
    assert evaluate_site(model, site, "validation", bins=10, device="cpu") == first
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_no_graph_is_kept(make_model: Any, make_site: Any) -> None:
    model, logits = make_model(), []
    model.network.register_forward_hook(lambda module, images, output: logits.append(output))
    evaluate_site(model, make_site(), "validation", bins=10, device="cpu")
    assert [output.requires_grad for output in logits] == [False]


def test_the_loss_does_not_depend_on_a_sites_class_frequencies(make_model: Any, make_site: Any) -> None:
    plain, weighted = make_model(), make_model(imbalance="weighted_loss")
    weighted.set_class_counts([99, 1], 100)
    first, second = (evaluate_site(model, make_site(), "test", bins=10, device="cpu") for model in (plain, weighted))
    assert first == second


def test_weights_that_are_not_finite_are_refused(make_model: Any, make_site: Any) -> None:
    model = make_model()
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    with pytest.raises(RefusedError, match="scores are not finite"):
        evaluate_site(model, make_site(), "test", bins=10, device="cpu")
    assert model.training


def test_a_module_that_is_no_classifier_is_told() -> None:
    with pytest.raises(ValueError, match="Linear has no objective"):
        evaluate_site(nn.Linear(1, 1), Items([[1.0]], [0]), "test", bins=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, there is none here")
def test_a_gpu_gives_the_same_counts_and_the_module_comes_home(make_model: Any, make_site: Any) -> None:
    model, site = make_model(), make_site()
    there, here = (evaluate_site(model, site, "test", bins=10, device=device) for device in ("cuda", "cpu"))
    assert there.count == here.count
    assert there.loss == pytest.approx(here.loss, rel=1e-4)
    assert next(model.parameters()).device.type == "cpu"
