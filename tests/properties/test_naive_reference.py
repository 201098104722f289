"""The simulation against a loop of thirty lines that knows nothing of ours."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.training.personal import load_personal
from flows.build import build_module
from tests.references.naive_federation import federate
from tests.references.simulated import naive_sites, open_sites, run_simulation
from tests.references.tiny_study import tiny_study, write_films

ADAM = {"server_learning_rate": 0.02, "momentum_decay": 0.8, "second_moment_decay": 0.9, "adaptivity": 0.01}
STRATEGIES = {
    "FedAvg": ({}, {}),
    "FedProx": ({"proximal_weight": 0.7}, {"mu": 0.7}),
    "FedBN": ({}, {}),
    "FedPer": ({}, {}),
    "FedAdam": (ADAM, {"eta": 0.02, "beta_1": 0.8, "beta_2": 0.9, "tau": 0.01}),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films")).parent


@pytest.mark.parametrize("name", STRATEGIES)
def test_simulation_is_the_naive_reference(films: Path, tmp_path: Path, name: str) -> None:
    hyperparameters, symbols = STRATEGIES[name]
    study = tiny_study(strategy={"name": name, **hyperparameters}, local={"epochs": 2})
    sites = naive_sites(study, open_sites(study, films, state=tmp_path))
    expected, personal = federate(
        build_module(study), sites, study.rounds.max, strategy=name, lr=0.05, momentum=0.9, **symbols
    )

    weights = run_simulation(study, films, state=tmp_path).state.weights

    assert_same(weights, expected, exactly=name in ("FedAvg", "FedBN", "FedPer"))
    for site in sites:
        kept = load_personal(tmp_path / site, "simulated", before_round=study.rounds.max + 1)
        assert_same(kept, personal[site], exactly=True)


def assert_same(found: dict[str, Any], expected: dict[str, Any], *, exactly: bool) -> None:
    """Bit for bit; or, where the reference adds up in another order, as close as that leaves a float32.

    FedAdam divides by the root of a second moment, which makes a last digit into several.
    """
    assert found.keys() == expected.keys()
    for entry, value in found.items():
        if exactly:
            assert torch.equal(value, expected[entry]), entry
        else:
            torch.testing.assert_close(value, expected[entry], rtol=1e-4, atol=1e-5)
