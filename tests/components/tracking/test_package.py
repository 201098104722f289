import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from components.errors import StorageError
from components.rounds import ServerState
from components.study import Study
from components.tracking.package import (
    Package,
    Template,
    build_template,
    file_digest,
    find_template,
    require_weights,
    write_package,
)
from components.weights import digest


@pytest.fixture
def written(template: Template, state: Callable[[int], ServerState], tmp_path: Path) -> Package:
    return write_package(template, tmp_path / "package", state(4), lineage={"round": 4, "roster": ["north", "south"]})


def test_weights_file_has_the_digest_of_the_weights(written: Package, state: Callable[[int], ServerState]) -> None:
    assert written.weights_digest == digest(state(4).weights)
    assert written.weights_digest == hashlib.sha256((written.folder / "weights.safetensors").read_bytes()).hexdigest()
    loaded = load_file(written.folder / "weights.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in state(4).weights.items())


def test_a_package_of_other_weights_than_it_is_made_of_is_refused(
    written: Package, state: Callable[[int], ServerState]
) -> None:
    require_weights(written, digest(state(4).weights))
    with pytest.raises(StorageError, match="were damaged in the store while their version was written"):
        require_weights(written, digest(state(3).weights))


def test_manifest_names_every_other_file(written: Package) -> None:
    manifest = json.loads((written.folder / "manifest.json").read_text())
    found = {path.relative_to(written.folder).as_posix() for path in written.folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == found - {"manifest.json"}
    assert all(file_digest(written.folder / name) == entry["sha256"] for name, entry in manifest["files"].items())
    assert manifest["lineage"] == {"round": 4, "roster": ["north", "south"]}
    assert written.digest == file_digest(written.folder / "manifest.json")


def test_the_same_round_gives_the_same_package(
    template: Template, state: Callable[[int], ServerState], tmp_path: Path, written: Package
) -> None:
    again = write_package(template, tmp_path / "again", state(4), lineage={"round": 4, "roster": ["north", "south"]})
    other = write_package(template, tmp_path / "other", state(4), lineage={"round": 5})
    assert again.digest == written.digest
    assert other.digest != written.digest


def test_slots_of_the_server_are_kept_by_name(
    template: Template, state: Callable[[int], ServerState], tmp_path: Path
) -> None:
    momentum = {name: value * 2 for name, value in state(4).weights.items()}
    package = write_package(template, tmp_path / "package", replace(state(4), slots={"momentum": momentum}), lineage={})
    slots = load_file(package.folder / "server_state.safetensors")
    assert set(slots) == {f"momentum/{name}" for name in momentum}
    assert package.metadata["server"] == {"round": 4, "step": 4, "statistics": ["layers.1.running_mean"]}


def test_a_package_without_slots_has_no_server_state(written: Package) -> None:
    assert not (written.folder / "server_state.safetensors").exists()


def test_extra_files_are_part_of_the_package(
    template: Template, state: Callable[[int], ServerState], tmp_path: Path
) -> None:
    package = write_package(
        template, tmp_path / "package", state(1), lineage={}, extra_files={"figures/roc.png": b"\x89PNG"}
    )
    assert (package.folder / "figures/roc.png").read_bytes() == b"\x89PNG"
    assert "figures/roc.png" in package.metadata["files"]


def test_mlflow_loads_the_folder_and_answers_as_the_network(
    written: Package, network: Callable[[int], nn.Module], state: Callable[[int], ServerState]
) -> None:
    images = np.random.default_rng(1).random((3, 1, 6, 6), dtype=np.float32)
    answers = mlflow.pyfunc.load_model(str(written.folder)).predict(images)
    expected = network(4)(torch.from_numpy(images)).detach().numpy()
    assert answers.shape == (3, 1)
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_signature_takes_any_batch_and_refuses_another_size(written: Package) -> None:
    model = mlflow.models.Model.load(str(written.folder))
    assert [spec.shape for spec in model.signature.inputs.inputs] == [(-1, 1, 6, 6)]
    assert [spec.shape for spec in model.signature.outputs.inputs] == [(-1, 1)]
    assert model.metadata["outputs"] == ["ill"]


def test_preprocessing_tells_how_to_read_the_answers(written: Package) -> None:
    preprocessing = json.loads((written.folder / "preprocessing.json").read_text())
    assert preprocessing["spatial_size"] == [6, 6]
    assert preprocessing["intensity"] == "minmax"
    assert preprocessing["outputs"] == ["ill"]
    assert preprocessing["threshold"] == 0.5


def test_a_template_is_found_again_only_for_its_own_study(template: Template, study: Study, tmp_path: Path) -> None:
    assert find_template(template.folder, study) == template
    assert find_template(template.folder, study.model_copy(update={"seed": 2})) is None
    assert find_template(tmp_path / "nowhere", study) is None


def test_weights_of_another_network_are_refused(
    template: Template, state: Callable[[int], ServerState], tmp_path: Path
) -> None:
    strange = replace(state(1), weights={"head.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"no entry 'head\.weight'"):
        write_package(template, tmp_path / "package", strange, lineage={})


def test_a_folder_that_cannot_be_written_is_a_storage_error(
    study: Study, template: Template, state: Callable[[int], ServerState], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    program = torch.export.load(template.folder / "data/model.pt2")
    with pytest.raises(StorageError, match="cannot write the model template"):
        build_template(study, program, tmp_path / "file" / "template")
    with pytest.raises(StorageError, match="cannot write the model package"):
        write_package(template, tmp_path / "file" / "package", state(1), lineage={})
