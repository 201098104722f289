"""Where a site computes, and with which precision: refused here, rather than changed in silence."""

from __future__ import annotations

from typing import Literal

import torch

from components.errors import RefusedError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["32", "16-mixed", "bf16-mixed"]


def choose_device(device: Device) -> torch.device:
    """Return the device to compute on.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        RefusedError: If ``cuda`` was asked for and there is none.
        ValueError: If the name is another.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, given {device!r}")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RefusedError("device: cuda was asked for, but this machine has no usable GPU; ask for auto or cpu")
    return torch.device("cuda", torch.cuda.current_device())


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that the device does not have.

    Raises:
        RefusedError: For ``16-mixed`` on the CPU, where Lightning would take bfloat16 instead.
        ValueError: If the name is unknown.
    """
    if precision not in ("32", "16-mixed", "bf16-mixed"):
        raise ValueError(f"precision must be 32, 16-mixed or bf16-mixed, given {precision!r}")
    if precision == "16-mixed" and device.type == "cpu":
        raise RefusedError("precision 16-mixed needs a CUDA GPU and this site computes on the CPU; choose 32")
