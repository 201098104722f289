"""Plain records that describe a model, and what all Lightning modules here share.

Nothing in `models` knows of federation: constructors take these records, forward takes tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import nn

TaskKind = Literal["binary", "multiclass", "multilabel"]
Imbalance = Literal["none", "weighted_loss", "balanced_sampling", "focal"]
OptimizerName = Literal["sgd", "adam", "adamw"]

Built = TypeVar("Built")
Layer = TypeVar("Layer", bound=nn.Module)


def output_layer(layer: Layer) -> Layer:
    """Let a layer say that it is the last of its network: what a federation may leave at each site."""
    layer.is_output_layer = True  # type: ignore[assignment]
    return layer


@dataclass(frozen=True)
class Architecture:
    """A network by name, and the images it takes.

    Attributes:
        name: A name of the closed table `models.networks.NETWORKS`.
        arguments: The network's own arguments; checked by `models.networks.build_network`.
        spatial_size: Height, width (and depth) of an image in pixels: two or three numbers.
        channels: Channels of an image.
    """

    name: str
    spatial_size: Sequence[int]
    channels: int = 1
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """What is predicted, and how unequal classes are handled.

    Attributes:
        kind: ``binary`` (one logit: the second class), ``multiclass`` or ``multilabel`` (one logit a class).
        classes: Number of classes; 2 for ``binary``.
        imbalance: ``none``; ``weighted_loss``; ``focal``; or ``balanced_sampling``, which is the data
            loader's business and leaves the loss plain.
    """

    kind: TaskKind
    classes: int
    imbalance: Imbalance = "none"

    def __post_init__(self) -> None:
        if self.kind not in ("binary", "multiclass", "multilabel"):
            raise ValueError(f"kind must be binary, multiclass or multilabel, given {self.kind!r}")
        if self.imbalance not in ("none", "weighted_loss", "balanced_sampling", "focal"):
            raise ValueError(
                f"imbalance must be none, weighted_loss, balanced_sampling or focal, given {self.imbalance!r}"
            )
        if self.classes < 2 or (self.kind == "binary" and self.classes != 2):
            raise ValueError(
                f"a {self.kind} task needs {'' if self.kind == 'binary' else 'at least '}2 classes, "
                f"given {self.classes}"
            )

    @property
    def logits(self) -> int:
        """Number of outputs of the network."""
        return 1 if self.kind == "binary" else self.classes


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimiser and its settings.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw``.
        learning_rate: Step size, above 0.
        momentum: Of ``sgd`` only; the others have their own.
        weight_decay: Coefficient of the L2 penalty (decoupled for ``adamw``).
    """

    name: OptimizerName = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("sgd", "adam", "adamw"):
            raise ValueError(f"the optimiser must be sgd, adam or adamw, given {self.name!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, given {self.learning_rate}")
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum belongs to sgd; {self.name} has its own")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a fresh optimiser over those of `parameters` that are trained."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        rate, decay = self.learning_rate, self.weight_decay
        if self.name == "sgd":
            return torch.optim.SGD(trained, lr=rate, momentum=self.momentum, weight_decay=decay)
        adam = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return adam(trained, lr=rate, weight_decay=decay)


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """Call `build` with torch's generator seeded, and leave the caller's generator as it was.

    Args:
        seed: From 0 to 2**64 - 1. Equal seeds give equal initial weights, bit for bit, on the CPU.
        build: Makes what draws its first values at random.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
