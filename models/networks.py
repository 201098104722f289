"""The closed table of networks for images, built by name; those for tables are in `models.tabular`.

A configuration can name nothing outside this table and can ask for no pretrained weights, so that
building a network never imports a module of somebody's choosing and never downloads anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.base import output_layer
from models.cnn import CNN
from models.network_arguments import (
    DENSENETS,
    EFFICIENTNET_STAGES,
    EFFICIENTNETS,
    RESNETS,
    CNNArguments,
    DenseNetArguments,
    EfficientNetArguments,
    ResNetArguments,
    ViTArguments,
    check_arguments,
)

# MONAI is imported inside the builders that need it: importing it costs 4 to 6 seconds, and a study on
# the CNN should not wait for that.


@dataclass(frozen=True)
class Shape:
    """What goes into a network and what comes out of it."""

    spatial_dims: int
    in_channels: int
    out_channels: int
    spatial_size: tuple[int, ...]


def _build_cnn(chosen: CNNArguments, shape: Shape) -> nn.Module:
    """Build the small network."""
    return CNN(
        shape.spatial_dims, shape.in_channels, shape.out_channels, widths=tuple(chosen.widths), dropout=chosen.dropout
    )


def _build_densenet(chosen: DenseNetArguments, shape: Shape) -> nn.Module:
    """Build MONAI's DenseNet."""
    from monai.networks.nets.densenet import DenseNet  # see the top of the file

    features, growth, blocks = (
        DENSENETS[chosen.variant] if chosen.variant else (chosen.init_features, chosen.growth_rate, chosen.block_config)
    )
    network: nn.Module = DenseNet(
        shape.spatial_dims,
        shape.in_channels,
        shape.out_channels,
        init_features=features,
        growth_rate=growth,
        block_config=tuple(blocks),
        bn_size=chosen.bn_size,
        norm=chosen.norm,
        dropout_prob=chosen.dropout_prob,
    )
    return network


def _build_resnet(chosen: ResNetArguments, shape: Shape) -> nn.Module:
    """Build MONAI's ResNet."""
    from monai.networks.nets.resnet import ResNet  # see the top of the file

    block, layers = RESNETS[chosen.variant] if chosen.variant else (chosen.block, chosen.layers)
    network: nn.Module = ResNet(
        block,
        list(layers),
        list(chosen.block_inplanes),
        spatial_dims=shape.spatial_dims,
        n_input_channels=shape.in_channels,
        num_classes=shape.out_channels,
        conv1_t_size=chosen.conv1_t_size,
        conv1_t_stride=chosen.conv1_t_stride,
        no_max_pool=chosen.no_max_pool,
        shortcut_type=chosen.shortcut_type,
        norm=chosen.norm,
    )
    return network


def _build_efficientnet(chosen: EfficientNetArguments, shape: Shape) -> nn.Module:
    """Build MONAI's EfficientNet, padded for the images' own size rather than for the published one."""
    from monai.networks.nets.efficientnet import EfficientNet  # see the top of the file

    width, depth, dropout = EFFICIENTNETS[chosen.variant]
    network: nn.Module = EfficientNet(
        list(EFFICIENTNET_STAGES),
        spatial_dims=shape.spatial_dims,
        in_channels=shape.in_channels,
        num_classes=shape.out_channels,
        width_coefficient=width,
        depth_coefficient=depth,
        dropout_rate=dropout,
        image_size=max(shape.spatial_size),
    )
    return network


class VisionTransformer(nn.Module):
    """MONAI's ``ViT`` as a classifier that returns logits alone (MONAI's returns its hidden states too)."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, out_channels] of images [N, in_channels, *spatial]."""
        return self.vit(images)[0]  # type: ignore[no-any-return]


def _build_vit(chosen: ViTArguments, shape: Shape) -> nn.Module:
    """Build MONAI's vision transformer."""
    patch = (chosen.patch_size,) * shape.spatial_dims if isinstance(chosen.patch_size, int) else chosen.patch_size
    if len(patch) != shape.spatial_dims or any(
        size % part for size, part in zip(shape.spatial_size, patch, strict=True)
    ):
        raise ValueError(
            f"patch_size: patches of {list(patch)} do not divide images of {list(shape.spatial_size)} without a rest"
        )
    from monai.networks.nets.vit import ViT  # see the top of the file

    return VisionTransformer(
        ViT(
            in_channels=shape.in_channels,
            img_size=shape.spatial_size,
            patch_size=tuple(patch),
            hidden_size=chosen.hidden_size,
            mlp_dim=chosen.mlp_dim,
            num_layers=chosen.num_layers,
            num_heads=chosen.num_heads,
            pos_embed_type=chosen.pos_embed_type,
            qkv_bias=chosen.qkv_bias,
            dropout_rate=chosen.dropout_rate,
            classification=True,
            post_activation="none",  # MONAI's default squeezes the logits through Tanh
            num_classes=shape.out_channels,
            spatial_dims=shape.spatial_dims,
        )
    )


NETWORKS: dict[str, Callable[[Any, Shape], nn.Module]] = {
    "CNN": _build_cnn,
    "DenseNet": _build_densenet,
    "ResNet": _build_resnet,
    "EfficientNet": _build_efficientnet,
    "ViT": _build_vit,
}


def build_network(
    name: str,
    arguments: Mapping[str, Any],
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    spatial_size: Sequence[int],
) -> nn.Module:
    """Build a network of the table; its first weights are drawn from torch's own generator.

    Args:
        name: A name of the table `NETWORKS`.
        arguments: The network's own arguments, as JSON has them.
        spatial_dims: 2 or 3.
        in_channels: Channels of the images.
        out_channels: Number of logits.
        spatial_size: Height, width (and depth) of the images in pixels.

    Returns:
        A module that maps images [N, in_channels, *spatial_size] to logits [N, out_channels].

    Raises:
        ValueError: If an argument is unknown, mistyped or out of range, or if images of this size do
            not pass through the network (each halving needs something to halve).
    """
    chosen = check_arguments(name, arguments)
    if name not in NETWORKS:
        raise ValueError(f"{name} takes tables; images need one of {', '.join(NETWORKS)}")
    if spatial_dims not in (2, 3) or len(spatial_size) != spatial_dims:
        raise ValueError(f"a network needs 2 or 3 spatial dimensions and a size for each, given {list(spatial_size)}")
    shape = Shape(spatial_dims, in_channels, out_channels, tuple(spatial_size))
    network = NETWORKS[name](chosen, shape)
    output_layer([layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1])
    _check_passage(name, network, shape)
    return network


def _check_passage(name: str, network: nn.Module, shape: Shape) -> None:
    """Send shapes without values through the network, so that an image too small is told now."""
    state = {key: tensor.to("meta") for key, tensor in network.state_dict().items()}
    images = torch.empty(2, shape.in_channels, *shape.spatial_size, device="meta")
    training = network.training
    try:
        with torch.no_grad():
            logits = torch.func.functional_call(network.eval(), state, images)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{name}: images of {list(shape.spatial_size)} do not pass through this network ({error}); "
            "use larger images or fewer levels"
        ) from None
    finally:
        network.train(training)
    if tuple(logits.shape) != (2, shape.out_channels):
        raise ValueError(f"{name} gives {tuple(logits.shape)} for 2 images, not (2, {shape.out_channels})")
