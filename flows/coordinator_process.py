"""The process that trains deployed studies when they are due: ``wardround coordinator serve``."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS, temporary_settings

from flows.closed_worker import ensure_pool
from flows.scheduled import POOL, TYPE, CoordinatorWorker
from flows.signals import until_told

QUERY_EVERY_S = 2.0
log = logging.getLogger("wardround.coordinator")


def run_coordinator(home: Path, folder: Path) -> None:
    """Work until SIGTERM or SIGINT.

    Args:
        home: Folder of everything recorded.
        folder: The coordinator's folder.

    Raises:
        ServiceError: If Prefect has a pool of another type in the place of the coordinator's.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with temporary_settings({PREFECT_WORKER_QUERY_SECONDS: QUERY_EVERY_S}):
        asyncio.run(_until_told(home, folder))


async def _until_told(home: Path, folder: Path) -> None:
    async with get_client() as client:
        await ensure_pool(client, POOL, TYPE, "The coordinator, which trains deployed studies")
    worker = CoordinatorWorker(work_pool_name=POOL, name=POOL, create_pool_if_not_found=False)
    worker.home, worker.folder = home.absolute(), folder
    await until_told(worker.start(printer=log.info), log=log)
