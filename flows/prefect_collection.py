"""What WardRound adds to Prefect, found through the entry point ``prefect.collections``.

Prefect imports this module when it loads its collections (in its server, its workers and its command
line), and swallows an error while doing so. It must stay light: no torch, no MLflow.

`WardRoundHome` is a block type: saved under a name in Prefect, it tells flows and dashboards of a
consortium where a federation keeps what it records, so that the place is written down once.
"""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field


class WardRoundHome(Block):
    """Where a federation records: its MLflow, and the folder of the coordinator.

    Attributes:
        tracking_uri: MLflow's tracking address; holds no password.
        home: The coordinator's WARDROUND_HOME.
    """

    _block_type_name: ClassVar[str] = "WardRound home"
    _block_type_slug: ClassVar[str] = "wardround-home"
    _description: ClassVar[str] = "Where a federation of hospitals records its model versions and rounds."

    tracking_uri: str = Field(description="MLflow's tracking address, without a password.")
    home: str = Field(default=".wardround", description="The coordinator's WARDROUND_HOME.")
