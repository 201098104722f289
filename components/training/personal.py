"""What stays at a site from round to round (FedBN's normalisation layers), as safetensors files.

Kept by training and round, so that a round that is repeated after a crash starts from the same entries.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from components.errors import StorageError
from components.files import write_whole
from components.rounds import NAME_PATTERN
from components.weights import Weights

_NAME = re.compile(NAME_PATTERN)
_FILE = re.compile(r"round-(\d{6,})\.safetensors")


def save_personal(
    folder: Path, training: str, round_number: int, personal: Weights, *, keep: int | None = None
) -> Path:
    """Write a site's personal entries after a round, and remove those of rounds long past.

    Args:
        folder: The site's state folder.
        training: Identifier of the training.
        round_number: The round that produced them, counted from 1.
        personal: The entries.
        keep: How many rounds up to this one are kept; None keeps all. The best round is tested at the end
            of the training, so as many as it can lie back: the patience and two.

    Returns:
        The file.

    Raises:
        StorageError: If it cannot be written.

    Guarantees:
        The file is whole or not there, also after a crash or a power cut. Saving a round again replaces
        it.
    """
    place = _place(folder, training)
    final = place / f"round-{round_number:06d}.safetensors"
    try:
        write_whole(final, save({name: tensor.contiguous() for name, tensor in personal.items()}))
        for _, file in sorted(_rounds(place, round_number + 1).items())[: -keep if keep else 0]:
            file.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"could not keep the personal weights of round {round_number}: {_reason(error)}") from error
    return final


def load_personal(folder: Path, training: str, before_round: int) -> Weights:
    """Return a site's personal entries of the latest round before a given one.

    Args:
        folder: The site's state folder.
        training: Identifier of the training.
        before_round: Entries of this round and later ones are left aside.

    Returns:
        The entries; empty if the site has none yet, since it then starts from the global ones.

    Raises:
        StorageError: If the file is damaged.
    """
    kept = _rounds(_place(folder, training), before_round)
    if not kept:
        return {}
    latest = max(kept)
    try:
        return load_file(kept[latest])
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the personal weights of round {latest} cannot be read ({_reason(error)}); "
            "restore the site's state folder from a backup, or remove the file to go on from the round before"
        ) from error


def _place(folder: Path, training: str) -> Path:
    """Return the folder of a training; its name comes from outside and must not leave the site's folder."""
    if not _NAME.fullmatch(training):
        raise ValueError(f"a training is named with letters, digits, '_', '.' and '-', given {training!r}")
    return folder / "personal" / training


def _rounds(place: Path, before: int) -> dict[int, Path]:
    """Return the kept files by round, of rounds before a given one."""
    if not place.is_dir():
        return {}
    found = {int(match[1]): file for file in place.iterdir() if (match := _FILE.fullmatch(file.name))}
    return {number: file for number, file in found.items() if number < before}


def _reason(error: Exception) -> str:
    """Return why, without the path: the message may leave the hospital."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__
