"""What we are measured against takes the very steps that we take."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from benchmarks import plain_loop
from benchmarks.job import first_round, largest_difference, write_plain_job
from tests.references.tiny_study import tiny_study, write_films

NETWORK = {"name": "DenseNet", "arguments": {"init_features": 4, "growth_rate": 2, "block_config": [2, 2]}}


def test_the_plain_loop_takes_our_steps_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = write_films(tmp_path)
    study = tiny_study(network=NETWORK, data={"path": str(films), "window": [0.0, 255.0]}, rounds={"max": 2})
    job = write_plain_job(study, tmp_path / "plain", channels_last=True)
    threads = torch.get_num_threads()
    try:
        plain_loop.main(str(job))
    finally:
        torch.set_num_threads(threads)

    plain, ours = load_file(tmp_path / "plain" / "after-round-1.safetensors"), first_round(study, tmp_path / "ours")

    start = load_file(tmp_path / "plain" / "start.safetensors")
    assert largest_difference(ours, plain) == 0.0
    assert largest_difference(ours, start) > 1e-3
    assert '"validation_auroc": [' in capsys.readouterr().out


def test_auroc_counts_ties_half() -> None:
    random = np.random.default_rng(1)
    scores, positive = random.integers(0, 5, 60) / 5, random.random(60) < 0.4
    assert plain_loop.auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
