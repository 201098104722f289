import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from components.errors import ServiceError, StorageError
from components.rounds import ServerState
from components.study import Study
from components.tracking.package import Template, write_package
from components.tracking.registry import RegisteredVersion, Registry, Release
from components.tracking.runs import Tracker
from components.tracking.scoring import load_state, load_version, resolve, weights_path


@pytest.fixture
def registered(
    open_tracker: Callable[[], Tracker], registry: Registry, release: Callable[..., Release]
) -> RegisteredVersion:
    version = registry.register(release(open_tracker(), 1))
    registry.set_alias("tiny.study", "champion", 1)
    return version


@pytest.fixture
def stored(registered: RegisteredVersion, registry: Registry) -> Path:
    """The folder in which MLflow keeps the version's files."""
    return Path(urlsplit(registry.client.get_logged_model(registered.model_id).artifact_location).path)


@pytest.mark.parametrize("uri_of_version", ["models:/tiny.study/1", "models:/tiny.study@champion"])
def test_a_version_is_loaded_by_number_and_by_alias(
    registered: RegisteredVersion, uri: str, state: Callable[[int], ServerState], study: Study, uri_of_version: Any
) -> None:
    model = load_version(uri_of_version, uri)
    assert model.version == registered
    assert model.study == study
    assert model.lineage == {"round": 1}
    assert model.preprocessing["outputs"] == ["ill"]
    assert all(torch.equal(model.weights[name], value) for name, value in state(1).weights.items())


@pytest.mark.parametrize("alias", ["champion", "latest"])
def test_plain_mlflow_loads_it_too(
    registered: RegisteredVersion, uri: str, network: Callable[[int], nn.Module], alias: str
) -> None:
    mlflow.set_tracking_uri(uri)
    images = np.random.default_rng(1).random((3, 1, 6, 6), dtype=np.float32)
    answers = mlflow.pyfunc.load_model(f"models:/tiny.study@{alias}").predict(images)
    np.testing.assert_allclose(answers, network(1)(torch.from_numpy(images)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["weights.safetensors", "study.json", "manifest.json"])
def test_a_file_that_was_replaced_is_noticed(registered: RegisteredVersion, stored: Path, uri: str, name: str) -> None:
    (stored / name).write_bytes((stored / name).read_bytes() + b" ")
    with pytest.raises(StorageError, match=f"{name} in the artifact store is not what was registered"):
        load_version(registered.uri, uri)


def test_a_file_that_is_gone_is_named(registered: RegisteredVersion, stored: Path, uri: str) -> None:
    (stored / "weights.safetensors").unlink()
    with pytest.raises(StorageError, match=r"cannot read weights.safetensors"):
        load_version(registered.uri, uri)


def test_whole_files_with_overwritten_tags_do_not_pass_the_journals_digest(
    registered: RegisteredVersion, registry: Registry, tmp_path: Path, state: Callable[[int], ServerState]
) -> None:
    assert weights_path(registry, registered.uri, tmp_path).exists()
    with pytest.raises(StorageError, match="not what was registered"):
        weights_path(registry, registered.uri, tmp_path, digest="0" * 64)


def test_the_servers_state_continues_bit_for_bit(
    open_tracker: Callable[[], Tracker],
    registry: Registry,
    template: Template,
    state: Callable[[int], ServerState],
    tmp_path: Path,
) -> None:
    momentum = {name: value * 2 for name, value in state(1).weights.items()}
    before = replace(state(1), step=7, slots={"momentum": momentum})
    package = write_package(template, tmp_path / "package", before, lineage={})
    version = registry.register(Release("tiny.study", "first", 1, open_tracker().run_id, package))

    after = load_state(registry, version)

    assert (after.round, after.step, after.statistics) == (1, 7, before.statistics)
    assert all(torch.equal(after.weights[name], value) for name, value in before.weights.items())
    assert all(torch.equal(after.slots["momentum"][name], value) for name, value in momentum.items())


def test_an_address_that_leads_nowhere_is_refused(registered: RegisteredVersion, registry: Registry, uri: str) -> None:
    with pytest.raises(ServiceError, match="alias 'best'"):
        resolve(registry, "models:/tiny.study@best")
    with pytest.raises(ServiceError, match=r"find version 9 of tiny.study"):
        resolve(registry, "models:/tiny.study/9")
    with pytest.raises(ValueError, match=r"given 'tiny.study'"):
        resolve(registry, "tiny.study")


def test_a_folder_that_was_moved_away_is_one_message(registered: RegisteredVersion, stored: Path, uri: str) -> None:
    shutil.rmtree(stored)
    with pytest.raises(StorageError, match=r"cannot read manifest.json"):
        load_version(registered.uri, uri)
