"""What every reader returns: one image or volume, not yet resampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """One image as it lies in its file.

    Attributes:
        pixels: float32 ``[C, H, W]`` for an image, rows downward and columns to the right as it is
            looked at; ``[C, I, J, K]`` for a volume, in the file's own order of axes. C is 1 or 3.
        affine: For a volume whose place in the patient is known: 4 x 4, from indexes (i, j, k) to
            millimetres to the right, anterior, superior (NIfTI's convention). None for an image.
    """

    pixels: NDArray[np.float32]
    affine: NDArray[np.float64] | None = None
