"""``wardround up``: a real federation on this machine, as child processes of one supervisor.

The same parts as in a consortium: a database, Prefect's server, MLflow's server, the gateway with TLS, and one
worker process per hospital that enrols with a token and reaches everything through the gateway. Run as
``python -m flows.local_federation HOME``; SIGTERM ends all of it.

::

    <home>/federation/                  the coordinator's folder (`flows.coordinator`, `flows.local_record`)
    <home>/federation/hospitals/NAME/   each hospital's folder, with its log
    <home>/federation/databases/        passwords of the databases, where they are PostgreSQL's
    <home>/prefect/  <home>/mlflow-server/    the servers' locks and logs, as for a simulation
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from components.analytics.plan import Disclosure
from components.errors import ServiceError, WardRoundError
from components.files import sole_holder, write_whole
from components.gateway.client import enrol
from components.governance.hospital_settings import FILE, HospitalSettings, Policy, read_settings
from components.governance.identity_files import SiteFolder
from components.site_source import SiteSource
from flows.coordinator import GATEWAY_FILE, CoordinatorConfig, init_coordinator, invite
from flows.database_secrets import database_url
from flows.embedded_mlflow import seed_mlflow, start_mlflow
from flows.embedded_prefect import EmbeddedPrefect
from flows.embedded_server import EmbeddedServer
from flows.health import server_trouble
from flows.local_parts import Part, Parts, ProgramPart, ServerPart, python_part
from flows.local_postgres import LocalPostgres, PostgresMissingError, find_postgres, free_port
from flows.local_record import (
    DATABASE,
    POSTGRESQL,
    SQLITE,
    UP,
    Addresses,
    end_left_parts,
    federation_folder,
    recorded_database,
    supervisor,
    write_parts,
    write_up,
)
from flows.packages import with_packages

__all__ = [
    "LocalHospital", "choose_database", "federation_folder", "only_one", "postgres_folder", "postgres_part",
    "require_down", "start", "stop", "studies_of_hospitals", "supervise", "supervisor", "write_hospitals",
]  # fmt: skip

READY_WITHIN_S = 180.0  # the first start migrates two databases
END_WITHIN_S = 60.0
log = logging.getLogger("wardround.up")


@dataclass(frozen=True)
class LocalHospital:
    """One hospital of this machine.

    Attributes:
        name: Its name.
        study: The study it has data for.
        source: Where its items are.
        disclosure: What may leave of its analyses; None if the study trains.
    """

    name: str
    study: str
    source: SiteSource
    disclosure: Disclosure | None = None


def write_hospitals(home: Path, hospitals: Sequence[LocalHospital]) -> None:
    """Write each hospital's settings: where its items of these studies are, beside those of earlier ones."""
    by_name: dict[str, list[LocalHospital]] = {}
    for hospital in hospitals:
        by_name.setdefault(hospital.name, []).append(hospital)
    for name, own in by_name.items():
        folder = federation_folder(home) / "hospitals" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        before = read_settings(folder) if (folder / FILE).exists() else None
        told = [hospital.disclosure for hospital in own if hospital.disclosure is not None]
        kept: dict[str, Any] = dict(before) if before is not None else {"disclosure": Disclosure(), "sources": {}}
        # One hospital alone is a federation too, on a laptop, and its administrator is the operator.
        kept["policy"] = Policy(min_sites=1, analyses="any")
        kept["sources"] = {**kept["sources"], **{hospital.study: hospital.source for hospital in own}}
        kept["disclosure"] = reduce(Disclosure.stricter, told) if told else kept["disclosure"]
        settings = HospitalSettings(**kept)
        write_whole(folder / FILE, json.dumps(settings.model_dump(mode="json"), indent=1).encode())


def studies_of_hospitals(home: Path) -> dict[str, list[str]]:
    """Return, by study, the hospitals of a home that have data for it, in the order of their names."""
    found: dict[str, list[str]] = {}
    for folder in sorted((federation_folder(home) / "hospitals").iterdir()):
        for study in sorted(read_settings(folder).sources):
            found.setdefault(study, []).append(folder.name)
    return dict(sorted(found.items()))


def require_down(home: Path) -> None:
    """Refuse to change a federation that is up.

    Raises:
        ServiceError: If it is.
    """
    running = supervisor(home)
    if running is not None:
        raise ServiceError(f"the federation is up already (process {running.pid}); end it with  wardround down")


def choose_database(home: Path, wanted: str) -> str:
    """Decide where the servers of a home's federation record, and note it: later starts keep to it.

    Args:
        home: The home.
        wanted: ``sqlite``, ``postgresql``, or ``auto``: PostgreSQL where it is installed and usable, unless this
            home has records in SQLite already.

    Returns:
        What was taken and why, in words.

    Raises:
        ServiceError: If it cannot be had, or the federation records in the other one.
    """
    recorded = recorded_database(home)
    if recorded and wanted not in ("auto", recorded):
        raise ServiceError(
            f"the federation of {home} records in {recorded}: leave --database out, or give another --home"
        )
    chosen, reason = recorded or wanted, ""
    if chosen == "auto" and (home / "mlflow.db").exists():
        chosen, reason = SQLITE, " (this home's records are in it already)"
    if chosen in ("auto", POSTGRESQL):
        try:
            reason = f" {find_postgres(postgres_folder(home)).version}"
            chosen = POSTGRESQL
        except PostgresMissingError as error:
            if chosen == POSTGRESQL:
                raise
            chosen, reason = SQLITE, f" ({error})"
    write_whole(federation_folder(home) / DATABASE, f"{chosen}\n".encode())
    return ("PostgreSQL" if chosen == POSTGRESQL else "SQLite") + reason


def start(home: Path) -> int:
    """Start the supervisor and wait until the federation is ready; return its process id.

    What an earlier one left behind, because it was killed, is ended first.

    Raises:
        ServiceError: If a part does not come up; its log says why.
    """
    folder = federation_folder(home)
    require_down(home)
    with open(folder / "up.log", "wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
            [sys.executable, "-m", "flows.local_federation", str(home)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=with_packages(os.environ),
        )  # fmt: skip
    deadline = time.monotonic() + READY_WITHIN_S
    try:
        while supervisor(home) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"the federation did not come up{_last_words(folder / 'up.log')}")
            time.sleep(0.05)
    except BaseException:  # Ctrl-C too: nothing half started stays
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_WITHIN_S)
        raise
    process.returncode = 0  # it goes on without us
    return process.pid


def stop(home: Path) -> bool:
    """End a federation and wait until all of it has ended; False if there was none."""
    running = supervisor(home)
    ended = running.end(END_WITHIN_S) if running is not None else False
    return bool(end_left_parts(home)) or ended


def supervise(home: Path) -> None:
    """Start every part, and keep it running until SIGTERM.

    Raises:
        ServiceError: If a part does not come up, or another supervisor runs.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    folder = federation_folder(home)
    with only_one(folder), ExitStack() as stack:
        for name in end_left_parts(home):
            log.warning("%s was left by a supervisor that was killed, and was ended", name)
        parts = Parts(partial(write_parts, home))
        stack.callback((folder / "parts.json").unlink, missing_ok=True)
        stack.callback(parts.end)
        found = _start_servers(home, parts)
        _start_hospitals(folder, parts)
        serve = ["flows.cli", "coordinator", "serve", "--home", str(home), "--folder", str(folder)]
        parts.start(python_part("coordinator", serve, folder / "coordinator.log"))
        stack.callback((folder / UP).unlink, missing_ok=True)
        write_up(home, found)
        while not told.wait(0.5):
            parts.keep()


def _start_servers(home: Path, parts: Parts) -> Addresses:
    """Start the database, then the servers side by side; return their addresses once all of them answer."""
    folder, urls = federation_folder(home), _start_database(home, parts)
    prefect = ServerPart("Prefect", partial(_open_prefect, home, urls.get("prefect")))
    mlflow = ServerPart("MLflow", partial(_open_mlflow, home, urls.get("mlflow")))
    parts.start(prefect, mlflow)
    port = free_port(_last_port(folder))
    config = CoordinatorConfig(
        federation="local",
        address=f"https://127.0.0.1:{port}",
        database=urls.get("gateway", f"sqlite:///{folder / 'gateway.db'}"),
        prefect_url=prefect.server.api_url,
        mlflow_url=mlflow.server.url,
        require_ready=False,  # it is this machine itself, and somebody waits
    )
    init_coordinator(folder, config, names=["127.0.0.1"], port=port)
    gateway = python_part("gateway", ["components.gateway.serve", str(folder / GATEWAY_FILE)], folder / "gateway.log")
    parts.start(gateway)
    _wait_for_gateway(config.address, folder / "secrets" / "ca.pem", gateway)
    for part in (prefect, mlflow):
        part.server.wait_ready(READY_WITHIN_S)
    return Addresses(config.address, prefect.server.url, mlflow.server.url)


def _start_database(home: Path, parts: Parts) -> dict[str, str]:
    """Start PostgreSQL if this home records in it; return the address of each server's database."""
    if recorded_database(home) != POSTGRESQL:
        seed_mlflow(home)
        return {}
    postgres, passwords = find_postgres(postgres_folder(home)), federation_folder(home) / "databases"
    postgres.make(passwords)
    port = free_port()
    part = postgres_part(postgres, port)
    parts.start(part)
    postgres.wait_ready(port, lambda: part.ended)
    postgres.make_databases(port, passwords)
    at: Callable[..., str] = partial(database_url, host="127.0.0.1", port=port, passwords=passwords)
    return {"prefect": at("prefect", driver="postgresql+asyncpg"), "mlflow": at("mlflow"), "gateway": at("gateway")}


def postgres_part(postgres: LocalPostgres, port: int) -> ProgramPart:
    """Return PostgreSQL as a part; SIGINT ends it without waiting for those who are connected."""
    return ProgramPart(
        "PostgreSQL", postgres.command(port), postgres.folder / "log", ends_with=signal.SIGINT, cwd="/",
        **postgres.ownership,
    )  # fmt: skip


def _start_hospitals(folder: Path, parts: Parts) -> None:
    """Enrol the hospitals that are new, and start all, side by side."""
    hospitals: list[Part] = []
    for hospital in sorted((folder / "hospitals").iterdir()):
        if not SiteFolder(hospital).credential.exists():
            enrol(invite(folder, hospital.name), SiteFolder(hospital))
        hospitals.append(python_part(hospital.name, ["flows.hospital_process", str(hospital)], hospital / "worker.log"))
    parts.start(*hospitals)


def _open_prefect(home: Path, database: str | None, port: int) -> EmbeddedServer:
    """Start Prefect's server with the services that a federation needs."""
    edition = postgres_folder(home) / "prefect-edition" if database else None
    server = EmbeddedPrefect.start(home, port=port, federation=True, database=database, edition=edition)
    return _ours(server, "Prefect")


def _open_mlflow(home: Path, database: str | None, port: int) -> EmbeddedServer:
    """Start MLflow's server."""
    edition = postgres_folder(home) / "mlflow-edition" if database else None
    return _ours(start_mlflow(home, port, database=database, edition=edition), "MLflow")


def _ours(server: EmbeddedServer, name: str) -> EmbeddedServer:
    """Refuse a server that somebody else started: it may serve another database, and has not all services."""
    if server.reused:
        server.stop()
        raise ServiceError(
            f"the {name} server of this home runs already, for  wardround ui  or for a training: end that first"
        )
    return server


def postgres_folder(home: Path) -> Path:
    """Return where a home's own PostgreSQL lies."""
    return federation_folder(home) / "postgresql"


def _last_port(folder: Path) -> int:
    """Return the gateway's port of last time, which the hospitals have pinned; 0 if there was none."""
    with suppress(FileNotFoundError, ValueError, KeyError):
        return int(json.loads((folder / GATEWAY_FILE).read_text())["port"])
    return 0


def _wait_for_gateway(address: str, authority: Path, part: Part) -> None:
    """Wait until the gateway answers.

    Raises:
        ServiceError: If it ends instead.
    """
    deadline = time.monotonic() + READY_WITHIN_S
    while server_trouble(f"{address}/v1/health", str(authority)):
        if part.ended or time.monotonic() > deadline:
            raise ServiceError("the gateway did not come up; gateway.log says why")
        time.sleep(0.05)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the supervisor's lock, which the kernel frees however the process ends.

    Raises:
        ServiceError: If another process holds it.
    """
    with sole_holder(folder / "up.lock", ServiceError("another  wardround up  of this home is starting or running")):
        yield


def _last_words(file: Path) -> str:
    """Return what the supervisor said last, for a message that begins the sentence."""
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].partition(' wardround.up ')[2] or lines[-1]} ({file})" if lines else f"; {file} says why"


def main(arguments: Sequence[str]) -> int:
    """Supervise the federation of a home; return what the process exits with."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it enrols the hospitals
    try:
        supervise(Path(arguments[0]))
    except WardRoundError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
