"""What federating is worth on real films: `benchmarks.accuracy`, made smaller."""

import statistics
from pathlib import Path

import pytest

from benchmarks.accuracy import FEDERATED, LOCAL, POOLED, outcome_of
from components.data.known import KNOWN, default_data_root

ROUNDS = 4


@pytest.mark.skipif(
    not (default_data_root() / KNOWN["pneumoniamnist"].file).is_file(), reason="no PneumoniaMNIST below WARDROUND_DATA"
)
def test_the_federated_model_beats_sites_alone_and_comes_near_the_pooled_model(tmp_path: Path) -> None:
    auroc = {model: found.value for model, found in outcome_of(1, tmp_path, rounds=ROUNDS).auroc.items()}
    alone = [value for model, value in auroc.items() if model.startswith(LOCAL)]
    assert len(alone) == 3
    assert auroc[FEDERATED] > statistics.mean(alone)
    assert auroc[FEDERATED] > auroc[POOLED] - 0.03
