"""Lightning inside a federation: what it changes around it is put back, what it prints is kept quiet."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from lightning_fabric.utilities.warnings import PossibleUserWarning

# A filter on the loggers that write them, not a level: setting a level clears the cache of every logger.
_NOTES = ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero")


@contextmanager
def contained(device: torch.device, seed: int) -> Iterator[None]:
    """Run a training with torch seeded, and leave the process as it was.

    Args:
        device: Where it runs.
        seed: From 0 to 2**64 - 1, for torch on the CPU and on that device.
    """
    with ExitStack() as stack:
        stack.enter_context(_seeded(device, seed))
        stack.enter_context(_deterministic())
        stack.enter_context(_interruptible())
        stack.enter_context(_quiet())
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators of the CPU and the device, and give them back as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Not torch.manual_seed: it would seed every GPU of the machine, forked or not.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _deterministic() -> Iterator[None]:
    """Have cuDNN choose the same, repeatable algorithm every time."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt; Lightning makes it an exit and ignores the next one for ever."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notes about devices, tips and limits off the screen; its errors still come."""
    for name in _NOTES:
        logging.getLogger(name).addFilter(_is_warning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6's data loading, on torch 2.13; not for us to change.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for name in _NOTES:
            logging.getLogger(name).removeFilter(_is_warning)


def _is_warning(record: logging.LogRecord) -> bool:
    """Tell what must be read from what is only told."""
    return record.levelno >= logging.WARNING
