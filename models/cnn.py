"""A small convolutional network of our own, for laptops and first tries."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

_LAYERS: dict[int, tuple[type[nn.Module], type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
}


class CNN(nn.Module):
    """Blocks of convolution (3 pixels wide), BatchNorm and ReLU, halved between blocks, averaged at the end.

    BatchNorm, and not GroupNorm, is a choice: FedBN then has statistics and scales to keep at a site.
    The default has 24 thousand parameters in 2D and 71 thousand in 3D.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the images.
        out_channels: Number of logits.
        widths: Channels of each block; there are ``len(widths) - 1`` halvings.
        dropout: Probability of dropping a feature before the last layer.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, widths: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        convolution, norm, pool, average = _LAYERS[spatial_dims]
        layers: list[nn.Module] = []
        for before, width in zip((in_channels, *widths), widths, strict=False):
            # BatchNorm has its own shift, so a bias before it would be trained in vain.
            layers += [
                convolution(before, width, 3, padding=1, bias=False),
                norm(width),
                nn.ReLU(inplace=True),
                pool(2),
            ]
        layers[-1] = average(1)  # in place of the last block's pooling
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(1), nn.Dropout(dropout), nn.Linear(widths[-1], out_channels))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, out_channels] of images [N, in_channels, *spatial]."""
        return self.classifier(self.features(images))  # type: ignore[no-any-return]
