"""A model as its users get it: raw images in, probabilities out, exported without pickle."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from models.base import TaskKind
from models.treatment import TreatmentNetwork
from models.treatment_survival import SurvivalTreatmentNetwork

Intensity = Literal["minmax", "zscore", "percentile", "window", "none"]


class ServedClassifier(nn.Module):
    """Intensity normalisation, network and probabilities in one module, in evaluation mode.

    Its entries have the names of the classifier's (``network.`` and so on), so that a global model's
    weights go into both by the same names.

    Args:
        network: Maps normalised images to logits. It is copied; later training does not change it.
        kind: How logits become probabilities.
        intensity: What was done to each image in training; see `normalise_intensity`.
        window: Lowest and highest intensity, for ``window``.

    Raises:
        ValueError: If `intensity` is unknown, or ``window`` comes without `window`.
    """

    def __init__(
        self, network: nn.Module, *, kind: TaskKind, intensity: Intensity, window: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if intensity not in ("minmax", "zscore", "percentile", "window", "none"):
            raise ValueError(f"intensity must be minmax, zscore, percentile, window or none, given {intensity!r}")
        if (intensity == "window") != (window is not None):
            raise ValueError("'window' (lowest, highest) goes with intensity 'window', and only with it")
        # Contiguous, as the weights that are put into it.
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.kind = kind
        self.intensity = intensity
        self.window = None if window is None else (float(window[0]), float(window[1]))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities.

        Args:
            images: float32 [N, C, *spatial] at the study's spatial size, in the units of the files.

        Returns:
            float32 [N, K] in [0, 1]; K is 1 for binary (the second class), else the number of classes.
        """
        logits = self.network(normalise_intensity(images, self.intensity, self.window))
        return torch.softmax(logits, dim=1) if self.kind == "multiclass" else torch.sigmoid(logits)


class ServedRisk(nn.Module):
    """A risk model as its users get it: rows of a table in, probabilities out, in evaluation mode.

    Its entries have the names of the risk model's, so that a global model's weights go into both by the same names.

    Args:
        inputs: What is done to the rows first; copied.
        network: Maps its outputs to logits; copied.
        kind: How logits become probabilities.
    """

    def __init__(self, inputs: nn.Module, network: nn.Module, *, kind: TaskKind) -> None:
        super().__init__()
        self.inputs, self.network, self.kind = copy.deepcopy(inputs), copy.deepcopy(network), kind
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Return probabilities [N, K] of rows float32 [N, F], NaN where a value is missing."""
        logits = self.network(self.inputs(rows))
        return torch.softmax(logits, dim=1) if self.kind == "multiclass" else torch.sigmoid(logits)


class ServedSurvival(nn.Module):
    """A survival model as its users get it: rows of a table in, risk score and chances of no event out.

    Its entries have the names of the survival model's, so that a global model's weights go into both by the same names.

    Args:
        inputs: What is done to the rows first; copied.
        network: Maps its outputs to scores; copied.
        baseline: Maps scores to what is said; copied.
    """

    def __init__(self, inputs: nn.Module, network: nn.Module, baseline: nn.Module) -> None:
        super().__init__()
        self.inputs, self.network, self.baseline = map(copy.deepcopy, (inputs, network, baseline))
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Return [N, 1 + H] of rows float32 [N, F], NaN where a value is missing; see `models.survival.Baseline`."""
        return self.baseline(self.network(self.inputs(rows)))  # type: ignore[no-any-return]


class ServedTreatment(nn.Module):
    """A treatment model as its users get it: rows of a table in, a recommendation's numbers out, in evaluation mode.

    Args:
        inputs: What is done to the rows first; copied.
        network: A `models.treatment.TreatmentNetwork`, or that of `models.treatment_survival`; copied.
    """

    def __init__(self, inputs: nn.Module, network: TreatmentNetwork | SurvivalTreatmentNetwork) -> None:
        super().__init__()
        self.inputs, self.network = copy.deepcopy(inputs), copy.deepcopy(network)
        self.eval()

    def forward(self, rows: Tensor) -> Tensor:
        """Return [N, 5] of rows float32 [N, F]; see `models.treatment.TreatmentNetwork.recommend`."""
        return self.network.recommend(self.inputs(rows))


def normalise_intensity(images: Tensor, intensity: Intensity, window: tuple[float, float] | None = None) -> Tensor:
    r"""Normalise each image by itself, over all its channels; the numbers are those of the data pipeline.

    ``minmax``: :math:`(x - \min) / (\max - \min)`; ``zscore``: mean 0 and population standard deviation 1;
    ``percentile``: the 1st to the 99th percentile (linear interpolation) to [0, 1], clipped; ``window``: the
    window to [0, 1], clipped; ``none``: as it is. An image of one intensity becomes zeros in the first three.

    Args:
        images: float32 [N, C, *spatial].
        intensity: One of the five.
        window: For ``window``.

    Returns:
        float32 of the same shape.

    >>> normalise_intensity(torch.tensor([[[2.0, 4.0, 6.0]]]), "minmax").tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    if intensity == "none":
        return images
    if window is not None:
        lowest, highest = window
        return ((images - lowest) / (highest - lowest)).clamp(0, 1)
    # Torch's export traces this: shapes by reshape, choices by torch.where, nothing that reads a value.
    flat = images.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    if intensity == "zscore":
        centred = flat - flat.mean(1, keepdim=True)
        spread = centred.square().mean(1, keepdim=True).sqrt()
        scaled = torch.where((high > low) & (spread > 0), centred / spread, 0.0)
    else:
        if intensity == "percentile":
            low, high = torch.quantile(flat, torch.tensor([0.01, 0.99], device=flat.device), dim=1).unsqueeze(2)
        scaled = torch.where(high > low, (flat - low) / (high - low), 0.0)
    return (scaled.clamp(0, 1) if intensity == "percentile" else scaled).reshape(images.shape)


def export_program(served: nn.Module, item_shape: Sequence[int]) -> ExportedProgram:
    """Export a served model for any batch size; costs seconds, so do it once per study.

    Args:
        served: What to export, a `ServedClassifier`, `ServedRisk` or `ServedSurvival`; on the CPU.
        item_shape: Shape of one item: channels and spatial size of an image, or the number of columns.

    Returns:
        A program that takes float32 [N, *item_shape], N from 1, and returns [N, K].
    """
    # Two examples, since torch takes a size of 1 for a constant.
    example = torch.zeros(2, *item_shape)
    with torch.no_grad():
        return torch.export.export(served.eval(), (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False)


def with_weights(program: ExportedProgram, weights: Mapping[str, Tensor]) -> ExportedProgram:
    """Put new weights into an exported program, without exporting again.

    Args:
        program: As `export_program` returned it; it is left as it was.
        weights: The new values by the classifier's names. Entries of the program that are not named
            (counters) keep their values.

    Returns:
        A program that shares the graph and nothing of the weights.

    Raises:
        ValueError: If a name is unknown to the program, or a shape or dtype differs.
    """
    state = {name: tensor.detach().clone() for name, tensor in program.state_dict.items()}
    for name, tensor in weights.items():
        if name not in state:
            raise ValueError(f"the exported program has no entry {name!r}")
        if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
            raise ValueError(
                f"entry {name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"the program has {state[name].dtype} {tuple(state[name].shape)}"
            )
        state[name] = tensor.detach().cpu().clone()
    for name, tensor in program.state_dict.items():
        if isinstance(tensor, nn.Parameter):
            state[name] = nn.Parameter(state[name], requires_grad=tensor.requires_grad)
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=state,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )
