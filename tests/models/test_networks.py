import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from models.networks import NETWORKS, build_network

SMALL: dict[str, dict[str, Any]] = {
    "CNN": {},
    "DenseNet": {"init_features": 8, "growth_rate": 4, "block_config": [2, 2]},
    "ResNet": {"variant": "resnet10", "block_inplanes": [4, 8, 8, 8]},
    "EfficientNet": {},
    "ViT": {"patch_size": 8, "hidden_size": 12, "mlp_dim": 16, "num_layers": 1, "num_heads": 2},
}


def build(
    name: str,
    arguments: dict[str, Any] | None = None,
    size: tuple[int, ...] = (16, 16),
    outputs: int = 3,
    channels: int = 2,
) -> nn.Module:
    return build_network(
        name,
        SMALL[name] if arguments is None else arguments,
        spatial_dims=len(size),
        in_channels=channels,
        out_channels=outputs,
        spatial_size=list(size),
    )


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 16)], ids=["2D", "3D"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_logits_and_trains(name: str, size: tuple[int, ...]) -> None:
    network = build(name, size=size)
    logits = network(torch.rand(2, 2, *size))
    logits.sum().backward()
    assert logits.shape == (2, 3)
    assert network.training
    # MONAI's transformer blocks own a norm for a cross-attention that a classifier does not have.
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert all("norm_cross_attn" in name for name in unused)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layer_that_says_it_is_the_output_is_the_one_the_logits_come_from(name: str) -> None:
    network = build(name).eval()
    (last,) = [layer for layer in network.modules() if getattr(layer, "is_output_layer", False)]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    assert not network(torch.rand(2, 2, 16, 16)).any()


def test_default_cnn_is_small_and_has_normalisation() -> None:
    for size, expected in [((28, 28), 23_473), ((16, 16, 16), 69_841)]:
        network = build("CNN", size=size, outputs=1, channels=1)
        assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert any("running_mean" in name for name in network.state_dict())


def test_densenet121_is_monais() -> None:
    from monai.networks.nets.densenet import DenseNet121

    theirs = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1).state_dict()
    ours = build("DenseNet", {"variant": "densenet121"}, size=(32, 32), outputs=1, channels=1).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


def test_resnet50_is_monais() -> None:
    from monai.networks.nets.resnet import resnet50

    theirs = resnet50(spatial_dims=2, n_input_channels=1, num_classes=1).state_dict()
    ours = build("ResNet", {"variant": "resnet50"}, size=(32, 32), outputs=1, channels=1).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


@pytest.mark.parametrize("variant", ["efficientnet-b0", "efficientnet-b3"])
def test_efficientnet_is_monais(variant: str) -> None:
    from monai.networks.nets.efficientnet import EfficientNetBN

    theirs = EfficientNetBN(variant, pretrained=False, in_channels=1, num_classes=1).state_dict()
    ours = build("EfficientNet", {"variant": variant}, size=(32, 32), outputs=1, channels=1).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("CNN", {"widths": [4] * 6}, (16, 16)),
        ("DenseNet", {}, (16, 16)),
        ("ViT", {"patch_size": 5}, (16, 16)),
        ("ViT", {"patch_size": [8, 8, 8]}, (16, 16)),
    ],
)
def test_images_that_do_not_fit_are_told_when_the_network_is_built(
    name: str, arguments: dict[str, Any], size: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"do not (pass|divide)"):
        build(name, arguments, size=size)


def test_dimensions_must_match_the_size() -> None:
    with pytest.raises(ValueError, match="2 or 3 spatial dimensions"):
        build_network("CNN", {}, spatial_dims=3, in_channels=1, out_channels=1, spatial_size=[16, 16])


def test_cnn_and_argument_checks_do_not_import_monai() -> None:
    code = (
        "import sys; from models.networks import build_network;"
        "build_network('CNN', {}, spatial_dims=2, in_channels=1, out_channels=1, spatial_size=[16, 16]);"
        "sys.exit('monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_argument_checks_do_not_import_torch() -> None:
    code = (
        "import sys; from models.network_arguments import check_arguments; check_arguments('ResNet', {});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
