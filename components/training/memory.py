"""A GPU whose memory is too small for a batch: the same work again, with the batch in parts."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

# What CUDA and the libraries over it say where PyTorch's own allocator did not get to say it.
_SIGNS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
TOO_SMALL = "out of GPU memory, with smaller batches too: lower local.batch_size, or use a GPU with more memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the GPU's memory did not suffice.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    True
    >>> is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    False
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def fit_in_memory(attempt: Callable[[int], T], *, most_parts: int) -> tuple[T, int]:
    """Do something with whole batches, and where the GPU's memory does not suffice with halves, quarters and so on.

    Args:
        attempt: Does it from the start, with each batch in so many parts; what an attempt left behind that
            failed must not matter to the next.
        most_parts: Parts of a batch at the most, 1 or more.

    Returns:
        What the attempt that succeeded returned, and its parts.

    Guarantees:
        Between two attempts PyTorch gives back all memory of the GPU that the first one held.
    """
    parts = 1
    while True:
        try:
            return attempt(parts), parts
        except RuntimeError as error:
            if parts * 2 > most_parts or not is_out_of_memory(error):
                raise
        # Out of the handler: the error held the frames of the attempt, and with them its tensors.
        parts *= 2
        release_memory()


def release_memory() -> None:
    """Give memory of the GPU that nothing uses back to others; without CUDA in use, do nothing."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()
