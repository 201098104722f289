"""PNG and JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.data.picture import Picture
from components.data.quarantine import UnusableItemError


def read_raster(path: Path) -> Picture:
    """Read a PNG or JPEG file, turned upright as its EXIF orientation says.

    Args:
        path: The file. 1, 8 and 16 bit grey, palette and RGB are read; an alpha channel is dropped.

    Returns:
        float32 ``[1, H, W]`` (grey) or ``[3, H, W]``, in the file's own units (0-255 for 8 bits).

    Raises:
        UnusableItemError: If the colour mode is none of these.
        Exception: Whatever Pillow raises on a truncated or damaged file.
    """
    # Pillow only here: a site whose images are cached must not wait for any reader.
    from PIL import Image, ImageOps

    with Image.open(path, formats=["PNG", "JPEG"]) as opened:
        opened.load()
        image = ImageOps.exif_transpose(opened)
        if image.mode in ("1", "LA"):
            image = image.convert("L")
        elif image.mode in ("P", "RGBA", "CMYK", "YCbCr"):
            image = image.convert("RGB")
        if image.mode not in ("L", "RGB", "I", "F") and not image.mode.startswith("I;16"):
            raise UnusableItemError("colour mode that is not read")
        pixels = np.asarray(image, dtype=np.float32)
    return Picture(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))
