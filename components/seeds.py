"""Randomness is passed in: every generator is derived from what it is for, never from a clock."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive an independent 63-bit seed for one purpose.

    Args:
        seed: The study's seed.
        *purpose: What the randomness is for, for example ``("train", site, round_number)``.

    Returns:
        A seed in ``[0, 2**63)``. Equal arguments give equal seeds on every machine and in every
        version of Python; any other argument gives an unrelated one.

    >>> derive_seed(1, "train", "north", 3) == derive_seed(1, "train", "north", 3)
    True
    >>> derive_seed(1, "train", "north", 3) == derive_seed(1, "train", "north", 4)
    False
    """
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *purpose))
