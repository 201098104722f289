"""Where theory says that a federation is local training, or pooled training, it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flows.build import build_module
from tests.references.simulated import naive_sites, open_sites, run_simulation
from tests.references.tiny_study import tiny_study, write_films

ONE_SITE = {"count": 1, "partition": "iid"}
# Instance normalisation sees one image at a time. With BatchNorm a site's batch would have another mean than
# the pooled batch, so that neither gradients nor statistics could be the same.
NO_BATCH_STATISTICS = {
    "name": "DenseNet",
    "arguments": {"init_features": 4, "growth_rate": 2, "block_config": [2, 2], "norm": "instance"},
}
FULL_BATCH = {"epochs": None, "steps": 1, "batch_size": 96, "optimizer": {"name": "sgd", "learning_rate": 0.5}}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films")).parent


def trained_in_one_loop(study: Any, folder: Path, *, state: Path) -> dict[str, Tensor]:
    """Plain local training: the loop is not divided into rounds but for its fresh optimiser."""
    ((images, labels, rounds),) = naive_sites(study, open_sites(study, folder, state=state)).values()
    network = build_module(study)
    for batches in rounds:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for rows in batches:
            loss = F.binary_cross_entropy_with_logits(network(images[rows]), labels[rows].float()[:, None])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_fedavg_with_one_site_is_local_training_bit_for_bit(films: Path, tmp_path: Path, weighting: str) -> None:
    study = tiny_study(
        sites=ONE_SITE, strategy={"weighting": weighting}, local={"epochs": 2}, rounds={"max": 4}, seed=11
    )
    expected = trained_in_one_loop(study, films, state=tmp_path)
    federated = run_simulation(study, films, state=tmp_path).state.weights
    assert len(federated) == 12
    assert all(torch.equal(value, expected[name]) for name, value in federated.items())


def distance_to_pooled_step(films: Path, state: Path, network: dict[str, Any], partition: str) -> float:
    """Largest difference of any weight after one full-batch step at the sites, and with all items at one site."""
    weights: list[dict[str, Tensor]] = []
    for sites in ({"partition": partition}, ONE_SITE):
        study = tiny_study(sites=sites, network=network, local=FULL_BATCH, rounds={"max": 1}, seed=3)
        weights.append(run_simulation(study, films, state=state / str(len(weights))).state.weights)
    federated, pooled = weights
    assert federated.keys() == pooled.keys()
    start = build_module(study).state_dict()
    assert max(float((value - start[name]).abs().max()) for name, value in pooled.items()) > 1e-2
    return max(float((value - pooled[name]).abs().max()) for name, value in federated.items())


def sizes(*parts: float) -> str:
    return "sizes:" + ",".join(map(str, parts))


@pytest.mark.parametrize("parts", [(0.5, 0.5), (0.6, 0.25, 0.15), (0.3, 0.3, 0.2, 0.1, 0.1)])
def test_one_full_batch_step_averaged_by_samples_is_the_pooled_step(
    films: Path, tmp_path: Path, parts: Sequence[float]
) -> None:
    assert distance_to_pooled_step(films, tmp_path, NO_BATCH_STATISTICS, sizes(*parts)) < 1e-6


def test_batch_statistics_are_why_the_pooled_step_needs_a_network_without_them(films: Path, tmp_path: Path) -> None:
    with_statistics = {"name": "CNN", "arguments": {"widths": [4, 8]}}
    assert distance_to_pooled_step(films, tmp_path, with_statistics, sizes(0.6, 0.25, 0.15)) > 1e-5
