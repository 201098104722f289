"""The process that trains deployed studies when they are due: ``wardround coordinator serve``."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS, temporary_settings

from components.errors import ServiceError
from components.files import sole_holder
from flows.closed_worker import ensure_pool
from flows.coordinator import open_side
from flows.health import HEARTBEAT
from flows.scheduled import POOL, TYPE, CoordinatorWorker
from flows.signals import until_told
from flows.tenure import Tenure

QUERY_EVERY_S = 2.0
log = logging.getLogger("wardround.coordinator")


def run_coordinator(home: Path, folder: Path) -> None:
    """Work until SIGTERM or SIGINT.

    Args:
        home: Folder of everything recorded.
        folder: The coordinator's folder.

    Raises:
        ServiceError: If Prefect has a pool of another type in the place of the coordinator's, or another process
            of this folder does the same.
        LeaseLostError: If another one carries the schedules out now, since this one was not heard of.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with ExitStack() as stack:
        tenure = stack.enter_context(_lead(folder))
        stack.enter_context(temporary_settings({PREFECT_WORKER_QUERY_SECONDS: QUERY_EVERY_S}))
        asyncio.run(_until_told(home, folder, tenure))
        tenure.require()


@contextmanager
def _lead(folder: Path) -> Iterator[Tenure]:
    """Hold the lease of the schedules: of several coordinators one carries them out, the others stand by."""
    side, told = open_side(folder), threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGTERM, signal.SIGINT)}

    def check() -> None:
        (folder / HEARTBEAT).touch()  # it stands by, which is what it should do
        if told.is_set():
            raise KeyboardInterrupt

    lock, busy = folder / "serve.lock", ServiceError(f"another  wardround coordinator serve  of {folder} runs already")
    with sole_holder(lock, busy):
        try:
            tenure = Tenure.begin(side.leases, "the schedules", lock, say=_say, check=check)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        try:
            yield tenure
        finally:
            tenure.close()


def _say(text: str) -> None:
    """Log for whom is waited."""
    if text:
        log.info("%s", text)


async def _until_told(home: Path, folder: Path, tenure: Tenure) -> None:
    async with get_client() as client:
        await ensure_pool(client, POOL, TYPE, "The coordinator, which trains deployed studies")
    worker = CoordinatorWorker(work_pool_name=POOL, name=POOL, create_pool_if_not_found=False)
    worker.home, worker.folder = home.absolute(), folder
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    tenure.tell(lambda: loop.call_soon_threadsafe(gone.set))
    await until_told(worker.start(printer=log.info), _until(gone, tenure), log=log)


async def _until(gone: asyncio.Event, tenure: Tenure) -> None:
    """Wait until the lease is lost, and say so."""
    await gone.wait()
    tenure.require()
