"""The process of a hospital: ``python -m flows.hospital_process FOLDER``; SIGTERM ends it in order.

It does what the gateway lists for the site, runs the Prefect worker of the site's pool, says every few seconds that
it is alive and what it does, and renews its credential when two thirds of its life are over.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from components.errors import WardRoundError
from components.gateway.client import GatewayClient
from components.gateway.records import Activity
from components.governance.identity_files import SiteFolder
from flows.health import HEARTBEAT
from flows.hospital import open_site
from flows.hospital_client import connected
from flows.hospital_route import read_route
from flows.hospital_work import follow_work
from flows.hospital_worker import HospitalWorker
from flows.signals import until_told

BEAT_EVERY_S = 5.0
log = logging.getLogger("wardround.hospital")


def main(arguments: Sequence[str]) -> int:
    """Work until SIGTERM or SIGINT; return what the process exits with."""
    if len(arguments) != 1:
        print("usage: python -m flows.hospital_process FOLDER", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    folder = Path(arguments[0])
    try:
        return run_hospital(folder)
    except WardRoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run_hospital(folder: Path) -> int:
    """Work for the gateway that a hospital's folder names.

    Raises:
        WardRoundError: If no hospital is enrolled there, or the gateway refuses it.
    """
    hospital, ended = open_site(folder), threading.Event()
    beats = threading.Thread(target=_beat, args=(folder, hospital.activity, ended), daemon=True, name="heartbeat")
    beats.start()
    worker = HospitalWorker(work_pool_name=hospital.site, name=hospital.site, create_pool_if_not_found=False)
    identity, route = SiteFolder(folder), read_route(folder)
    worker.work, worker.connect = hospital, partial(connected, identity, route)
    try:
        following = follow_work(identity, route, hospital.take)
        asyncio.run(until_told(worker.start(printer=log.info), following, log=log))
    finally:
        ended.set()
        hospital.close()
    return 0


def _beat(folder: Path, activity: Callable[[], Activity], ended: threading.Event) -> None:
    """Say that the hospital is alive, and renew its credential in time; what fails is tried again."""
    with GatewayClient(SiteFolder(folder), read_route(folder)) as client:
        while not ended.wait(BEAT_EVERY_S):
            try:
                client.renew_if_due()
                client.heartbeat(activity())
                (folder / HEARTBEAT).touch()
            except (WardRoundError, OSError) as error:
                log.warning("heartbeat: %s", error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
