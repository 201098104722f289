import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.errors import StorageError
from components.tracking.archive import archive_slots, replace_weights
from components.tracking.package import PROGRAM, Template


@pytest.fixture
def program(template: Template) -> Path:
    return template.folder / PROGRAM


def test_replaced_program_answers_as_the_network_with_these_weights(
    program: Path, network: Callable[[int], nn.Module], tmp_path: Path
) -> None:
    replace_weights(program, tmp_path / "new.pt2", dict(network(7).state_dict()))

    loaded = torch.export.load(tmp_path / "new.pt2")
    images = torch.rand(5, 1, 6, 6)
    assert torch.equal(loaded.module()(images), network(7)(images))
    assert all(torch.equal(loaded.state_dict[name], value) for name, value in network(7).state_dict().items())


def test_entries_not_named_keep_their_values(
    program: Path, network: Callable[[int], nn.Module], tmp_path: Path
) -> None:
    replace_weights(program, tmp_path / "new.pt2", {"layers.5.bias": torch.tensor([2.5])})

    loaded = torch.export.load(tmp_path / "new.pt2").state_dict
    assert loaded["layers.5.bias"].item() == 2.5
    assert torch.equal(loaded["layers.0.weight"], network(0).state_dict()["layers.0.weight"])


def test_equal_weights_give_equal_files(program: Path, network: Callable[[int], nn.Module], tmp_path: Path) -> None:
    for name in ("a.pt2", "b.pt2"):
        replace_weights(program, tmp_path / name, dict(network(7).state_dict()))
    assert (tmp_path / "a.pt2").read_bytes() == (tmp_path / "b.pt2").read_bytes()


def test_nothing_is_unpickled(
    program: Path, network: Callable[[int], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, forbidden)
    replace_weights(program, tmp_path / "new.pt2", dict(network(7).state_dict()))


def test_slots_tell_dtype_and_shape_of_every_entry(program: Path, network: Callable[[int], nn.Module]) -> None:
    slots = archive_slots(program)
    expected = {name: (value.dtype, tuple(value.shape)) for name, value in network(0).state_dict().items()}
    assert {name: (slot.dtype, slot.shape) for name, slot in slots.items()} == expected


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"layers.9.bias": torch.zeros(1)}, "no entry 'layers.9.bias'"),
        ({"layers.5.bias": torch.zeros(2)}, r"is torch.float32 \(1,\) in the exported program"),
        ({"layers.5.bias": torch.zeros(1, dtype=torch.float64)}, r"given torch.float64 \(1,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(program: Path, tmp_path: Path, weights: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        replace_weights(program, tmp_path / "new.pt2", weights)


def test_entries_that_are_views_of_others_are_refused(program: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(tmp_path / "short.pt2", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info)[: 4 if info.filename.endswith("weight_0") else None])
    with pytest.raises(StorageError, match="as a part of another"):
        archive_slots(tmp_path / "short.pt2")


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"not a zip file")
    with pytest.raises(StorageError, match="not an exported program"):
        archive_slots(tmp_path / "model.pt2")
