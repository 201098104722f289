import os
from pathlib import Path

import pytest
import torch

from components.errors import StorageError
from components.training.personal import load_personal, save_personal
from components.weights import Weights


def entries(value: float) -> Weights:
    return {"norm.weight": torch.full((2, 3), float(value)).t(), "norm.running_mean": torch.tensor([0.1, value])}


def test_a_site_without_personal_entries_starts_from_the_global_ones(tmp_path: Path) -> None:
    assert load_personal(tmp_path, "a", 1) == {}


def test_the_latest_round_before_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    for number in (1, 2):
        save_personal(tmp_path, "a", number, entries(number))
    assert load_personal(tmp_path, "a", 1) == {}
    for before, expected in [(2, 1), (3, 2), (9, 2)]:
        loaded = load_personal(tmp_path, "a", before)
        assert all(torch.equal(tensor, entries(expected)[name]) for name, tensor in loaded.items())


def test_a_repeated_round_replaces_its_own_file_and_starts_from_the_round_before(tmp_path: Path) -> None:
    save_personal(tmp_path, "a", 4, entries(4))
    save_personal(tmp_path, "a", 5, entries(5))
    assert load_personal(tmp_path, "a", 5)["norm.running_mean"][1] == 4
    save_personal(tmp_path, "a", 5, entries(50))
    assert load_personal(tmp_path, "a", 6)["norm.running_mean"][1] == 50


def test_as_many_rounds_are_kept_as_asked_and_nothing_else(tmp_path: Path) -> None:
    for number in (1, 2, 3, 999_999, 1_000_000):
        save_personal(tmp_path, "a", number, entries(1), keep=2)
    names = sorted(file.name for file in (tmp_path / "personal" / "a").iterdir())
    assert names == ["round-1000000.safetensors", "round-999999.safetensors"]


def test_all_rounds_are_kept_unless_asked(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save_personal(tmp_path, "a", number, entries(number))
    assert [load_personal(tmp_path, "a", number + 1)["norm.running_mean"][1] for number in (1, 2, 3)] == [1, 2, 3]


def test_trainings_are_kept_apart(tmp_path: Path) -> None:
    save_personal(tmp_path, "a", 1, entries(1))
    assert load_personal(tmp_path, "b", 9) == {}


def test_a_damaged_file_is_told_without_its_path(tmp_path: Path) -> None:
    file = save_personal(tmp_path, "a", 3, entries(3))
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(StorageError, match="round 3 cannot be read") as caught:
        load_personal(tmp_path, "a", 4)
    assert str(tmp_path) not in str(caught.value)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_personal(tmp_path, "a", 1, entries(1))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        save_personal(tmp_path, "a", 1, entries(2))
    assert load_personal(tmp_path, "a", 2)["norm.running_mean"][1] == 1
    assert len(list((tmp_path / "personal" / "a").iterdir())) == 1


@pytest.mark.parametrize("training", ["../other", "", "a/b", ".hidden"])
def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path, training: str) -> None:
    with pytest.raises(ValueError, match="named with letters"):
        save_personal(tmp_path, training, 1, entries(1))
    with pytest.raises(ValueError, match="named with letters"):
        load_personal(tmp_path, training, 1)
