"""What one gateway process is told: its federation, its folders, its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from components.gateway.limits import Limits
from components.gateway.records import CoordinatorKeys, Record
from components.rounds import Name


class Settings(Record):
    """The settings of one gateway.

    Attributes:
        federation: Identifier of the federation.
        coordinator: The coordinator's public keys, which every site pins.
        secrets: Folder with ca.key, ca.pem, gateway.key and gateway.pem.
        exchange: Folder of the exchange: ``objects`` is read, ``sealed`` is written.
        prefect_url: Address of Prefect's API behind the gateway, for example ``http://127.0.0.1:4200/api``; empty
            if there is none.
        prefect_auth: What Prefect's server wants as ``PREFECT_API_AUTH_STRING``; empty if nothing.
        credential_life_s: How long a credential is good.
        hold_s: How long a worker's question for work is kept open until there is some. Prefect's client waits 60 s.
        limits: What is served.
    """

    model_config = ConfigDict(strict=False)

    federation: Name
    coordinator: CoordinatorKeys
    secrets: Path
    exchange: Path
    prefect_url: str = ""
    prefect_auth: Annotated[str, Field(repr=False)] = ""
    credential_life_s: Annotated[float, Field(ge=60)] = 7 * 86400.0
    hold_s: Annotated[float, Field(ge=0, le=50)] = 20.0
    limits: Limits = Limits()
