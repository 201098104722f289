"""New weights in an exported program, without exporting, deserialising or unpickling it again.

A ``.pt2`` archive is a zip file of plain records. ``data/weights/model_weights_config.json`` says for each
entry of the program's state which record holds its values, and those records are the values' bytes in
row-major order. So a new version is a copy of the archive with other bytes in these records: milliseconds,
where `torch.export.export` takes seconds and `torch.export.save` serialises the whole graph.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from components.errors import StorageError
from components.weights import buffer

_CONFIG = "data/weights/model_weights_config.json"
# torch._export.serde.schema.ScalarType
_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's earliest date: equal weights give equal files


@dataclass(frozen=True)
class Slot:
    """Where an archive keeps one entry: the record's name, and the dtype and shape of its values."""

    record: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def archive_slots(archive: Path) -> dict[str, Slot]:
    """Return where each entry of the program's state is kept.

    Raises:
        StorageError: If the file is no archive of an exported program, or keeps an entry in a way that
            this function does not know (pickled, as a view of another, or in another order than row-major).
    """
    try:
        with zipfile.ZipFile(archive) as file:
            (config,) = [name for name in file.namelist() if name.endswith(_CONFIG)]
            folder = config.rsplit("/", 1)[0]
            entries = json.loads(file.read(config))["config"]
            sizes = {info.filename: info.file_size for info in file.infolist()}
        slots = {name: _slot(folder, entry) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise StorageError(
            f"{archive.name} is not an exported program whose weights can be replaced: {error}"
        ) from error
    for name, slot in slots.items():
        if sizes.get(slot.record) != math.prod(slot.shape) * slot.dtype.itemsize:
            raise StorageError(f"{archive.name} keeps entry {name!r} as a part of another: export contiguous weights")
    return slots


def replace_weights(archive: Path, target: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a copy of an exported program that holds other weights.

    Args:
        archive: A file written by `torch.export.save`.
        target: The file to write.
        weights: New values by the program's own names; entries not named keep the old ones.

    Raises:
        ValueError: If an entry is not in the program or has another dtype or shape there.
        StorageError: As `archive_slots`.

    Guarantees:
        Equal weights give equal files, byte for byte. Nothing is unpickled.
    """
    slots = archive_slots(archive)
    records = {}
    for name, tensor in weights.items():
        slot = slots.get(name)
        if slot is None:
            raise ValueError(f"the exported program has no entry {name!r}; it has {sorted(slots)[:3]} ...")
        if (slot.dtype, slot.shape) != (tensor.dtype, tuple(tensor.shape)):
            given = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"entry {name!r} is {slot.dtype} {slot.shape} in the exported program, given {given}")
        records[slot.record] = tensor
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            content = buffer(records[info.filename]) if info.filename in records else old.read(info)
            new.writestr(zipfile.ZipInfo(info.filename, _EPOCH), content)


def _slot(folder: str, entry: Mapping[str, object]) -> Slot:
    """Read one entry of the archive's weights configuration."""
    meta = entry["tensor_meta"]
    if entry["use_pickle"] or not isinstance(meta, dict):
        raise ValueError(f"{entry['path_name']} is pickled")
    shape = tuple(int(size["as_int"]) for size in meta["sizes"])
    strides = tuple(int(stride["as_int"]) for stride in meta["strides"])
    if (
        math.prod(shape)
        and not torch.empty(0).new_empty(shape, device="meta").as_strided(shape, strides).is_contiguous()
    ):
        raise ValueError(f"{entry['path_name']} is not in row-major order")
    return Slot(f"{folder}/{entry['path_name']}", _DTYPES[meta["dtype"]], shape)
