"""How far a training is, is told while it goes on and changes nothing of it."""

from typing import Any

import pytest
import torch

from components.training import progress
from components.training.local import train_site
from components.training.progress import Pace, pace


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (1, Pace(epoch=1, epochs=3, share=0.25, left_s=18.0)),
        (4, Pace(epoch=1, epochs=3, share=1.0, left_s=3.0)),
        (5, Pace(epoch=2, epochs=3, share=0.25, left_s=2.0)),
        (10, Pace(epoch=3, epochs=3, share=0.5, left_s=0.0)),
    ],
)
def test_the_pace_of_ten_batches_in_passes_of_four(done: int, expected: Pace) -> None:
    assert pace(done, batches=4, total=10, elapsed_s=2.0) == expected


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": 2}, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]),
        ({"epochs": None, "steps": 4}, [(1, 1), (1, 2), (1, 3), (2, 1)]),
        ({"epochs": 1, "parts": 2}, [(1, 0.5), (1, 1), (1, 1.5), (1, 2), (1, 2.5), (1, 3)]),
    ],
)
def test_each_batch_is_told_where_there_is_time(
    make_model: Any, make_site: Any, make_order: Any, monkeypatch: pytest.MonkeyPatch, settings: Any, told: Any
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    heard: list[Pace] = []
    result = train_site(make_model(), make_site(), make_order(**settings), tell=heard.append)
    assert [(one.epoch, round(one.share * 3, 6)) for one in heard] == told
    assert {one.epochs for one in heard} == {2 if settings.get("parts") is None else 1}
    assert heard[-1].left_s == 0.0
    silent = train_site(make_model(), make_site(), make_order(**settings))
    assert all(torch.equal(result.weights[name], tensor) for name, tensor in silent.weights.items())


def test_fast_batches_are_told_now_and_then(
    make_model: Any, make_site: Any, make_order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 3600.0)
    heard: list[Pace] = []
    train_site(make_model(), make_site(), make_order(epochs=5), tell=heard.append)
    assert [one.epoch for one in heard] == [1]
