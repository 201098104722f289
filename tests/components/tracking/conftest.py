"""A small study, its exported program, and an empty MLflow database to copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from torch import Tensor, nn

from components.rounds import ServerState
from components.study import Study
from components.tracking.connection import prepare_database
from components.tracking.package import Package, Template, build_template, write_package
from components.tracking.registry import Registry, Release
from components.tracking.runs import Tracker

SHAPE = (1, 6, 6)


class TinyNetwork(nn.Module):
    """Convolution, BatchNorm and a linear layer, with a counter among its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(images))


def make_network(seed: int) -> TinyNetwork:
    torch.manual_seed(seed)
    return TinyNetwork().eval()


def floats(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if value.is_floating_point()}


@pytest.fixture(scope="session")
def study() -> Study:
    return Study.model_validate(
        {
            "study": "tiny.study",
            "task": {"classes": ["normal", "ill"]},
            "data": {"source": "npz", "path": "tiny.npz", "spatial_size": [6, 6]},
            "sites": {"count": 2},
        }
    )


@pytest.fixture(scope="session")
def network() -> Callable[[int], TinyNetwork]:
    return make_network


@pytest.fixture(scope="session")
def state() -> Callable[[int], ServerState]:
    def build(number: int) -> ServerState:
        return ServerState(number, number, floats(make_network(number)), frozenset({"layers.1.running_mean"}))

    return build


@pytest.fixture(scope="session")
def template(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Template:
    example = torch.zeros(2, *SHAPE)
    program = torch.export.export(make_network(0), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    return build_template(study, program, tmp_path_factory.mktemp("template") / "template")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    prepare_database(f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(tmp_path: Path, empty_database: Path) -> Iterator[str]:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    yield f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # nothing of this test reaches the next


@pytest.fixture
def open_tracker(uri: str, tmp_path: Path, study: Study) -> Callable[[], Tracker]:
    """Open the same training as a new process would."""

    def build() -> Tracker:
        tracker = Tracker(uri, experiment=study.study, artifact_root=tmp_path / "artifacts")
        tracker.start_training("first", study=study, params={"rounds.max": 3}, tags={})
        return tracker

    return build


@pytest.fixture
def registry(uri: str) -> Registry:
    return Registry(uri)


@pytest.fixture
def package(template: Template, state: Callable[[int], ServerState], tmp_path: Path) -> Callable[..., Package]:
    def build(number: int, seed: int | None = None) -> Package:
        made = state(number if seed is None else seed)
        return write_package(template, tmp_path / f"package-{number}-{seed}", made, lineage={"round": number})

    return build


@pytest.fixture
def release(study: Study, package: Callable[..., Package]) -> Callable[..., Release]:
    def build(
        tracker: Tracker, number: int, auroc: float = 0.5, *, training: str = "first", data: str = "d1"
    ) -> Release:
        return Release(
            study.study, training, number, tracker.run_id, package(number), {"auroc": auroc, "loss": 0.25},
            {"wardround.strategy": "FedAvg"}, data,
        )  # fmt: skip

    return build
