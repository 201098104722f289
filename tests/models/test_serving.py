import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.data.intensity import normalise
from models.networks import build_network
from models.serving import ServedClassifier, export_program, normalise_intensity, with_weights

NETWORKS: dict[str, dict[str, Any]] = {
    "CNN": {"widths": [4, 8]},
    "DenseNet": {"init_features": 4, "growth_rate": 2, "block_config": [2, 2]},
}
KINDS: list[tuple[Any, tuple[float, float] | None]] = [
    ("minmax", None),
    ("zscore", None),
    ("percentile", None),
    ("window", (20.0, 180.0)),
    ("none", None),
]


def network(name: str = "CNN", seed: int = 1, outputs: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    built = build_network(
        name, NETWORKS[name], spatial_dims=2, in_channels=1, out_channels=outputs, spatial_size=[16, 16]
    )
    with torch.no_grad():
        for key, buffer in built.named_buffers():  # as if it had been trained
            if "running" in key:
                buffer.copy_(torch.rand_like(buffer) / 10 + (0.05 if key.endswith("var") else 0.0))
    return built


def test_the_networks_here_tell_images_apart() -> None:
    # Statistics drawn carelessly leave every unit dead, and then all the comparisons below hold for nothing.
    for name in NETWORKS:
        with torch.no_grad():
            assert network(name).eval()(normalise(raw_images(4), "minmax")).std() > 1e-3


def raw_images(items: int) -> Tensor:
    return torch.rand(items, 1, 16, 16, generator=torch.Generator().manual_seed(items)) * 255


@pytest.mark.parametrize(("intensity", "window"), KINDS)
def test_numbers_are_those_of_the_data_pipeline(intensity: Any, window: tuple[float, float] | None) -> None:
    images = raw_images(5)
    images[2] = 7.0
    ours = normalise_intensity(images, intensity, window)
    assert torch.equal(ours, normalise(images, intensity, window))
    if intensity not in ("window", "none"):
        assert torch.equal(ours[2], torch.zeros_like(ours[2]))


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        ("minmax", [0.0, 0.25, 1.0]),
        ("zscore", [-0.98058, -0.39223, 1.37281]),  # mean 5/3, variance 26/9... of 0, 1, 4
        ("percentile", [0.0, (1 - 0.02) / (3.94 - 0.02), 1.0]),  # 0.02 and 3.94 are the percentiles
    ],
)
def test_normalisation_worked_by_hand(intensity: Any, expected: list[float]) -> None:
    images = torch.tensor([0.0, 1.0, 4.0]).reshape(1, 1, 1, 3)
    torch.testing.assert_close(
        normalise_intensity(images, intensity).flatten(), torch.tensor(expected), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("intensity", "window"), KINDS)
def test_served_probabilities_are_those_of_the_training_path(
    intensity: Any, window: tuple[float, float] | None
) -> None:
    trained, images = network(), raw_images(4)
    served = ServedClassifier(trained, kind="binary", intensity=intensity, window=window)
    with torch.no_grad():
        expected = torch.sigmoid(trained.eval()(normalise(images, intensity, window)))
        assert torch.equal(served(images), expected)


def test_served_model_does_not_follow_later_training() -> None:
    trained, images = network(), raw_images(2)
    served = ServedClassifier(trained, kind="binary", intensity="minmax")
    before = served(images)
    with torch.no_grad():
        trained.features[0].weight.zero_()
    assert torch.equal(served(images), before)


def test_multiclass_probabilities_add_up_to_one() -> None:
    served = ServedClassifier(network(outputs=3), kind="multiclass", intensity="minmax")
    torch.testing.assert_close(served(raw_images(4)).sum(1), torch.ones(4))


@pytest.mark.parametrize(("intensity", "window"), [("window", None), ("minmax", (0.0, 1.0)), ("log", None)])
def test_a_window_goes_with_window(intensity: Any, window: tuple[float, float] | None) -> None:
    with pytest.raises(ValueError, match="window"):
        ServedClassifier(network(), kind="binary", intensity=intensity, window=window)


@pytest.mark.parametrize("intensity", ["percentile", "zscore"])
@pytest.mark.parametrize("name", NETWORKS)
def test_new_weights_in_an_exported_program_equal_a_fresh_export(name: str, intensity: Any) -> None:
    first = ServedClassifier(network(name, seed=1), kind="binary", intensity=intensity)
    second = ServedClassifier(network(name, seed=2), kind="binary", intensity=intensity)
    program = export_program(first, (1, 16, 16))
    floats = {key: value for key, value in second.state_dict().items() if value.is_floating_point()}
    renewed, fresh = with_weights(program, floats), export_program(second, (1, 16, 16))
    for items in (1, 7):
        images = raw_images(items)
        assert torch.equal(renewed.module()(images), fresh.module()(images))
        assert torch.equal(renewed.module()(images), second(images))
        assert torch.equal(program.module()(images), first(images)), "the program given was changed"


def test_renewed_program_survives_its_file_and_shares_no_memory() -> None:
    first, second = (ServedClassifier(network(seed=seed), kind="binary", intensity="minmax") for seed in (1, 2))
    weights = {key: value.clone() for key, value in second.state_dict().items() if value.is_floating_point()}
    renewed = with_weights(export_program(first, (1, 16, 16)), weights)
    for tensor in weights.values():
        tensor.zero_()
    buffer = io.BytesIO()
    torch.export.save(renewed, buffer)
    buffer.seek(0)
    images = raw_images(3)
    assert torch.equal(torch.export.load(buffer).module()(images), second(images))


@pytest.mark.parametrize(
    "weights",
    [
        {"network.none": torch.zeros(1)},
        {"network.features.0.weight": torch.zeros(1)},
        {"network.features.0.weight": torch.zeros(4, 1, 3, 3, dtype=torch.float64)},
    ],
)
def test_weights_of_another_network_are_refused(weights: dict[str, Tensor]) -> None:
    program = export_program(ServedClassifier(network(), kind="binary", intensity="none"), (1, 16, 16))
    with pytest.raises(ValueError, match="network"):
        with_weights(program, weights)
