"""Decoded images on disk: a memory-mapped safetensors file, so that nothing is decoded twice.

The file is named after a digest of the content of the items and of the preprocessing: other content or
other settings have another name, so a cache can be stale only by not being used.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.errors import StorageError

_FORMAT = "wardround-images-1"


@dataclass(frozen=True)
class CachedImages:
    """What came of decoding a list of items.

    Attributes:
        images: float32 ``[N, C, *spatial]`` of the usable items, in the order of the list.
        reasons: For the others, by their place in the list, why they cannot be used.
    """

    images: Tensor
    reasons: dict[int, str]


def cache_file(folder: Path, key: str) -> Path:
    """Return where the images of one key are kept."""
    return folder / f"{key}.safetensors"


def load_images(path: Path) -> CachedImages | None:
    """Map cached images into memory.

    Returns:
        The images, whose pages are read from the disk when they are first used; or None if there is
        no such file, or it is damaged (its length, its header or its checksum is wrong).
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            images = file.get_tensor("images")
        if metadata.get("format") != _FORMAT or int(metadata["crc32"]) != _checksum(images):
            return None
        return CachedImages(images, {int(place): str(why) for place, why in json.loads(metadata["reasons"]).items()})
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError):
        return None


def store_images(path: Path, cached: CachedImages) -> None:
    """Write images to the cache.

    Guarantees:
        The file appears whole or not at all, whenever the process is killed: it is written beside its
        name and renamed.

    Raises:
        StorageError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    metadata = {
        "format": _FORMAT,
        "crc32": str(_checksum(cached.images)),
        "reasons": json.dumps({str(place): why for place, why in cached.reasons.items()}),
    }
    try:
        temporary.mkdir(parents=True, exist_ok=True)  # a folder: safetensors, too, writes beside the name it is given
        save_file({"images": cached.images.contiguous()}, temporary / path.name, metadata=metadata)
        (temporary / path.name).replace(path)
        temporary.rmdir()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StorageError(
            "cannot write the decoded images into the site's state folder: make room on the disk or give this user "
            "the right to write there"
        ) from error


def sweep(folder: Path, keep: Collection[Path]) -> None:
    """Remove caches of other content or settings, and what killed processes left half written."""
    for path in folder.glob("*.safetensors*"):
        abandoned = path.name.startswith(".") and not _alive(path.name.rpartition(".")[2])
        if path not in keep and (abandoned or not path.name.startswith(".")):
            with contextlib.suppress(OSError):
                path.unlink() if path.is_file() else shutil.rmtree(path)


def _alive(process: str) -> bool:
    """Say whether the process that is writing a temporary file still runs."""
    return process.isdigit() and Path("/proc", process).exists()


def _checksum(images: Tensor) -> int:
    """Return a CRC-32 of the values: it finds damage, and reads at the speed of the disk."""
    return zlib.crc32(images.contiguous().reshape(-1).view(torch.uint8).numpy().data)
