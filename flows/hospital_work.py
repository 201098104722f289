"""How a hospital learns at once what it is asked: a question to the gateway that is held open until there is news."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import httpx
from pydantic import ValidationError

from components.gateway.records import Work, WorkItem
from components.gateway.transport import Route
from components.governance.identity_files import SiteFolder
from flows.hospital_client import client_settings, explaining, patiently

log = logging.getLogger("wardround.hospital")


async def follow_work(folder: SiteFolder, route: Route, take: Callable[[Sequence[WorkItem]], None]) -> None:
    """Hand on what the gateway lists for this site, whenever it changes, until cancelled.

    Args:
        folder: The site's folder, after it enrolled.
        route: The way to the gateway.
        take: Takes all that is listed now; what is missing is not wanted any more.

    Raises:
        RefusedError: If the gateway does not let the site in; the reason is said.
    """
    address, rung = folder.read_federation().gateway, 0
    async with (
        explaining(folder, route),
        httpx.AsyncClient(base_url=address, **client_settings(folder, route)) as client,
    ):
        while True:
            work = await patiently(partial(_ask, client, rung))
            rung = work.rung
            take(work.items)


async def _ask(client: httpx.AsyncClient, rung: int) -> Work:
    """Ask once."""
    answer = await client.get("/v1/work", params={"rung": rung}, headers={"accept": "application/json"})
    answer.raise_for_status()
    try:
        return Work.model_validate_json(answer.content)
    except ValidationError as error:
        raise httpx.RemoteProtocolError("something else than a gateway of this version answered") from error
