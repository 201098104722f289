"""Take a training's work back from the hospitals, also where its driver is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from flows.abandoned import take_back
from flows.coordinator import open_side
from flows.leftovers import end_cancelled

log = logging.getLogger("wardround.coordinator")


def withdraw_training(folder: Path) -> Callable[[str], None]:
    """Return what takes back everything that a training asked of the hospitals of a coordinator's folder.

    The hospitals learn it at once and stop; what they had delivered and nobody took is dropped. In Prefect all open
    runs of the training become ``Cancelled``; that Prefect cannot be reached is only said in the log.
    """
    side = open_side(folder)

    def withdraw(training: str) -> None:
        take_back(side, training)
        try:
            asyncio.run(end_cancelled(training))
        except Exception as error:
            log.warning("Prefect still shows runs of %s as open: %s", training, type(error).__name__)

    return withdraw
