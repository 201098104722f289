"""Which entries of a module travel, and what each of them is: found by type, never by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.errors import RefusedError
from components.weights import Weights, is_finite

NORMALISATION_LAYERS: tuple[type[nn.Module], ...] = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
)


@dataclass(frozen=True)
class ExchangedEntries:
    """Names of a module's floating-point entries, in the order of its ``state_dict``.

    Attributes:
        parameters: Entries that are trained.
        statistics: Entries that are not: running means and variances, and any other floating-point
            buffer or frozen parameter. Averaged, never given to an optimiser; the mean of a constant is
            that constant.
        normalisation: Those of both that belong to a normalisation layer: what FedBN keeps at a site.
        output: Those of the output layers, which say so by `is_output_layer`: what FedPer keeps.
    """

    parameters: tuple[str, ...]
    statistics: tuple[str, ...]
    normalisation: tuple[str, ...]
    output: tuple[str, ...]

    def personal(self, kind: str) -> tuple[str, ...]:
        """Return those that stay at a site, by a strategy's ``personal``.

        Raises:
            RefusedError: If there is no such kind.
        """
        kinds = {"none": (), "normalisation": self.normalisation, "output": self.output}
        if kind not in kinds:
            raise RefusedError(f"personal entries are one of {', '.join(kinds)}, asked for {kind[:40]!r}")
        return kinds[kind]

    @property
    def all(self) -> tuple[str, ...]:
        """All exchanged names: parameters, then statistics."""
        return self.parameters + self.statistics


def exchanged_entries(module: nn.Module) -> ExchangedEntries:
    """Return the names of the entries of a module that are exchanged.

    Integer entries (BatchNorm's count of batches) and buffers that are not persistent (class weights)
    stay where they are. A tensor that the module knows by several names is exchanged once, by the
    first of them.

    Args:
        module: Any module.

    Returns:
        The names; `parameters` and `statistics` have no name in common.
    """
    tensors = _distinct_tensors(module)
    normalisation = _tensors_of(layer for layer in module.modules() if isinstance(layer, NORMALISATION_LAYERS))
    output = _tensors_of(layer for layer in module.modules() if getattr(layer, "is_output_layer", False))
    trained = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter) and tensor.requires_grad}
    return ExchangedEntries(
        parameters=tuple(name for name in tensors if name in trained),
        statistics=tuple(name for name in tensors if name not in trained),
        normalisation=tuple(name for name, tensor in tensors.items() if id(tensor) in normalisation),
        output=tuple(name for name, tensor in tensors.items() if id(tensor) in output),
    )


def read_entries(module: nn.Module) -> Weights:
    """Return clones of the exchanged entries on the CPU, detached."""
    # `to` with copy: one copy from the GPU, and on the CPU never the module's own memory. What travels is
    # contiguous, whatever memory format the module works in.
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in _distinct_tensors(module).items()
    }


def load_entries(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a module, all of its exchanged entries or none.

    Args:
        module: Its integer entries and buffers that are not persistent are left as they are.
        weights: Exactly the entries that `exchanged_entries` names.

    Raises:
        RefusedError: If names, a shape or a dtype differ, or a value is not finite; the module is then
            as it was.
    """
    tensors = _distinct_tensors(module)
    missing, unknown = sorted(tensors.keys() - weights.keys()), sorted(weights.keys() - tensors.keys())
    if missing or unknown:
        raise RefusedError(
            "the weights do not belong to this network: "
            f"missing {missing[:3]} ({len(missing)}), unknown {unknown[:3]} ({len(unknown)}); "
            "does every site have the same study and the same version?"
        )
    for name, tensor in tensors.items():
        _check_entry(name, weights[name], tensor)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(weights[name])


def _check_entry(name: str, given: Tensor, own: Tensor) -> None:
    """Refuse an entry that does not fit the module's own or is not finite."""
    if given.shape != own.shape or given.dtype != own.dtype:
        raise RefusedError(
            f"entry {name!r} is {given.dtype} {tuple(given.shape)}, the network has {own.dtype} {tuple(own.shape)}"
        )
    if not is_finite(given):
        raise RefusedError(f"entry {name!r} holds values that are not finite")


def _distinct_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point tensors of the state dict themselves, each by its first name."""
    distinct: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            distinct[name] = tensor
    return distinct


def _tensors_of(layers: Iterable[nn.Module]) -> set[int]:
    """Return the identities of all tensors that layers own."""
    return {id(tensor) for layer in layers for tensor in layer.state_dict(keep_vars=True).values()}
