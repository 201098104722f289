"""The networks' own arguments: checked by name, type and range, without importing torch.

A study check reads this file only, so that a mistake is told before anything heavy is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Count = Annotated[int, Field(ge=1, le=4096)]
Counts = Annotated[list[Count], Field(min_length=1, max_length=16)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Arguments(BaseModel):
    """Base of the networks' arguments: strict types, no unknown names."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class CNNArguments(Arguments):
    """Arguments of `models.cnn.CNN`."""

    widths: Counts = [16, 32, 64]
    dropout: Probability = 0.0


DENSENETS: dict[str, tuple[int, int, list[int]]] = {
    "densenet121": (64, 32, [6, 12, 24, 16]),
    "densenet169": (64, 32, [6, 12, 32, 32]),
    "densenet201": (64, 32, [6, 12, 48, 32]),
    "densenet264": (64, 32, [6, 12, 64, 48]),
}


class DenseNetArguments(Arguments):
    """Arguments of MONAI's ``DenseNet``; `variant` stands for the three that shape it (Huang et al. 2017, table 1)."""

    variant: Literal["densenet121", "densenet169", "densenet201", "densenet264"] | None = None
    init_features: Count = 64
    growth_rate: Count = 32
    block_config: Counts = [6, 12, 24, 16]
    bn_size: Count = 4
    norm: Literal["batch", "instance"] = "batch"
    dropout_prob: Probability = 0.0

    @model_validator(mode="after")
    def _check(self) -> DenseNetArguments:
        _refuse_beside_variant(self, "init_features", "growth_rate", "block_config")
        return self


RESNETS: dict[str, tuple[Literal["basic", "bottleneck"], list[int]]] = {
    "resnet10": ("basic", [1, 1, 1, 1]),
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
    "resnet200": ("bottleneck", [3, 24, 36, 3]),
}

FourCounts = Annotated[list[Count], Field(min_length=4, max_length=4)]


class ResNetArguments(Arguments):
    """Arguments of MONAI's ``ResNet``; `variant` stands for `block` and `layers` (He et al. 2016, table 1)."""

    variant: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"] | None = (
        None
    )
    block: Literal["basic", "bottleneck"] = "basic"
    layers: FourCounts = [2, 2, 2, 2]
    block_inplanes: FourCounts = [64, 128, 256, 512]
    conv1_t_size: Count = 7
    conv1_t_stride: Count = 1
    no_max_pool: bool = False
    shortcut_type: Literal["A", "B"] = "B"
    norm: Literal["batch", "instance"] = "batch"

    @model_validator(mode="after")
    def _check(self) -> ResNetArguments:
        _refuse_beside_variant(self, "block", "layers")
        return self


# Tan and Le 2019, table 1, one line per stage in MONAI's notation: repeats, kernel, stride, expansion,
# channels in and out, squeeze-and-excitation ratio.
EFFICIENTNET_STAGES = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)

# Factors of width and depth, and dropout.
EFFICIENTNETS: dict[str, tuple[float, float, float]] = {
    "efficientnet-b0": (1.0, 1.0, 0.2),
    "efficientnet-b1": (1.0, 1.1, 0.2),
    "efficientnet-b2": (1.1, 1.2, 0.3),
    "efficientnet-b3": (1.2, 1.4, 0.3),
    "efficientnet-b4": (1.4, 1.8, 0.4),
    "efficientnet-b5": (1.6, 2.2, 0.4),
    "efficientnet-b6": (1.8, 2.6, 0.5),
    "efficientnet-b7": (2.0, 3.1, 0.5),
}


class EfficientNetArguments(Arguments):
    """Arguments of MONAI's ``EfficientNet``: which of the published sizes (Tan and Le 2019)."""

    variant: Literal[
        "efficientnet-b0", "efficientnet-b1", "efficientnet-b2", "efficientnet-b3",
        "efficientnet-b4", "efficientnet-b5", "efficientnet-b6", "efficientnet-b7",
    ] = "efficientnet-b0"  # fmt: skip


class ViTArguments(Arguments):
    """Arguments of MONAI's ``ViT`` (Dosovitskiy et al. 2021); the defaults are its small size."""

    patch_size: Count | Annotated[list[Count], Field(min_length=2, max_length=3)] = 16
    hidden_size: Count = 384
    mlp_dim: Count = 1536
    num_layers: Count = 12
    num_heads: Count = 6
    pos_embed_type: Literal["learnable", "none"] = "learnable"
    qkv_bias: bool = True
    dropout_rate: Probability = 0.0

    @model_validator(mode="after")
    def _check(self) -> ViTArguments:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        return self


class LogisticRegressionArguments(Arguments):
    """Logistic regression has no arguments: one weight for each input, and an intercept."""


class LinearArguments(Arguments):
    """A linear score of survival has no arguments: one weight for each input."""


class MLPArguments(Arguments):
    """Arguments of a multilayer perceptron on tables: the widths of its hidden layers.

    `norm` ``batch`` puts BatchNorm before each ReLU, which FedBN keeps at a site.
    """

    widths: Counts = [32, 16]
    dropout: Probability = 0.0
    norm: Literal["none", "batch"] = "none"


class BoostedTreesArguments(Arguments):
    """Arguments of `models.trees.BoostedTrees`: the shape of all trees together.

    `trees` is the number of boosting steps, `depth` that of splits from root to leaf, `bins` the parts that the values
    of a number are cut into.
    """

    trees: Annotated[int, Field(ge=1, le=1000)] = 50
    depth: Annotated[int, Field(ge=1, le=8)] = 3
    bins: Annotated[int, Field(ge=2, le=256)] = 32

    @property
    def rounds(self) -> int:
        """Rounds after which all is grown: one for the first chance, one for each level of each tree."""
        return 1 + self.trees * self.depth


def _refuse_beside_variant(arguments: Any, *names: str) -> None:
    """Refuse arguments that contradict a variant."""
    given = [name for name in names if name in arguments.model_fields_set]
    if arguments.variant is not None and given:
        raise ValueError(f"variant {arguments.variant} sets {', '.join(given)}: give the variant or these, not both")


ARGUMENTS: dict[str, type[Arguments]] = {
    "CNN": CNNArguments,
    "DenseNet": DenseNetArguments,
    "ResNet": ResNetArguments,
    "EfficientNet": EfficientNetArguments,
    "ViT": ViTArguments,
    "LogisticRegression": LogisticRegressionArguments,
    "MLP": MLPArguments,
    "Linear": LinearArguments,
    "BoostedTrees": BoostedTreesArguments,
}


def check_arguments(name: str, arguments: Mapping[str, Any]) -> Arguments:
    """Check a network's arguments.

    Args:
        name: A name of the table `ARGUMENTS`.
        arguments: Values as JSON has them (lists, not tuples).

    Returns:
        The arguments as a frozen record, with the defaults filled in.

    Raises:
        ValueError: If the network or an argument is unknown (the message names the nearest right one),
            an argument has another type than it must have or is out of range, or two contradict each other.

    >>> check_arguments("DenseNet", {"growth_rate": 8}).growth_rate
    8
    >>> check_arguments("CNN", {"drop_out": 0.1})
    Traceback (most recent call last):
        ...
    ValueError: CNN has no argument 'drop_out'; did you mean 'dropout'? It takes: widths, dropout
    """
    if name not in ARGUMENTS:
        raise ValueError(f"there is no network {name!r}{_nearest(name, ARGUMENTS)}; there are: {', '.join(ARGUMENTS)}")
    allowed = ARGUMENTS[name].model_fields
    for given in arguments:
        if given == "pretrained":
            raise ValueError(
                f"{name}: 'pretrained' is not allowed; networks start from the study's seed, without download"
            )
        if given not in allowed:
            raise ValueError(
                f"{name} has no argument {given!r}{_nearest(given, allowed)} It takes: {', '.join(allowed) or 'none'}"
            )
    try:
        return ARGUMENTS[name].model_validate(dict(arguments))
    except ValidationError as error:
        raise ValueError(f"{name}: {_first_reason(error)}") from None


def _nearest(given: str, allowed: Mapping[str, Any]) -> str:
    """Return a hint at the right name, if one is near."""
    nearest = difflib.get_close_matches(given, allowed, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else "."


def _first_reason(error: ValidationError) -> str:
    """Return the first thing that is wrong, with the value that was given."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ")
    field = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("constrained-", "list[")))
    return f"{field}: {first['msg'][0].lower()}{first['msg'][1:]}, given {first['input']!r}"
