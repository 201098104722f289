"""Intensity normalisation: one function for every source, per image, over all its channels and pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 2**24  # elements worked on at once: keeps the sort behind torch.quantile within 200 MB


def normalise(images: Tensor, kind: str, window: Sequence[float] | None = None) -> Tensor:
    r"""Bring each image to the range the network was trained on.

    With :math:`x` the values of one image over all channels and pixels:

    - ``minmax``: :math:`(x - \min x) / (\max x - \min x)`;
    - ``zscore``: :math:`(x - \bar x) / s` with the population standard deviation :math:`s`;
    - ``percentile``: :math:`(x - q_1) / (q_{99} - q_1)` clipped to [0, 1], :math:`q` with linear interpolation;
    - ``window``: :math:`(x - a) / (b - a)` clipped to [0, 1], the same for every image;
    - ``none``: :math:`x`.

    Args:
        images: ``[N, C, *spatial]``, any real dtype, in the units of the file (HU for CT, 0-255 for 8 bits).
        kind: One of the five names above.
        window: ``(a, b)`` for ``window``, in the same units.

    Returns:
        float32 ``[N, C, *spatial]``. An image whose divisor is zero (constant; for ``percentile`` also
        nearly constant) becomes zeros under the first three kinds. Each image depends on itself alone.

    Raises:
        ValueError: If `kind` is unknown, or ``window`` is asked for without a window.

    >>> normalise(torch.tensor([[[[0.0, 5.0, 10.0]]], [[[3.0, 3.0, 3.0]]]]), "minmax").flatten().tolist()
    [0.0, 0.5, 1.0, 0.0, 0.0, 0.0]
    """
    if kind == "none":
        return images.to(torch.float32)
    if kind == "window":
        if window is None:
            raise ValueError("intensity window needs its two values")
        low, high = window
        return ((images.to(torch.float32) - low) / (high - low)).clamp_(0, 1)
    if kind not in ("minmax", "zscore", "percentile"):
        raise ValueError(f"intensity must be minmax, zscore, percentile, window or none, given {kind!r}")
    result = torch.empty(images.shape, dtype=torch.float32)
    step = max(1, _CHUNK // max(1, images[:1].numel()))
    for start in range(0, len(images), step):
        part = images[start : start + step].to(torch.float32)
        result[start : start + step] = _per_image(part.flatten(1), kind).view(part.shape)
    return result


def _per_image(flat: Tensor, kind: str) -> Tensor:
    """Normalise float32 images given as rows ``[N, pixels]``."""
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    if kind == "zscore":
        centred = flat - flat.mean(1, keepdim=True)
        spread = centred.square().mean(1, keepdim=True).sqrt()
        return torch.where((high > low) & (spread > 0), centred / spread, 0.0)
    if kind == "percentile":
        low, high = torch.quantile(flat, torch.tensor([0.01, 0.99]), dim=1)[..., None]
    scaled = torch.where(high > low, (flat - low) / (high - low), 0.0)
    return scaled.clamp_(0, 1) if kind == "percentile" else scaled
