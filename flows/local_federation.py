"""``wardround up``: a real federation on this machine, as child processes of one supervisor.

The same parts as in a consortium: Prefect's server, the gateway with TLS, and one worker process per hospital
that enrols with a token and reaches everything through the gateway. Run as
``python -m flows.local_federation HOME``; SIGTERM ends all of it.

::

    <home>/federation/                  the coordinator's folder (`flows.coordinator`)
    <home>/federation/hospitals/NAME/   each hospital's folder, with its log
    <home>/federation/up.json           the supervisor, while it runs
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from components.errors import ServiceError, WardRoundError
from components.files import write_whole
from components.gateway.client import enrol
from components.governance.hospital_settings import FILE, HospitalSettings, Policy
from components.governance.identity_files import SiteFolder
from components.site_source import SiteSource
from flows.coordinator import GATEWAY_FILE, CoordinatorConfig, init_coordinator, invite
from flows.early import ROOT
from flows.embedded_prefect import EmbeddedPrefect

UP = "up.json"
READY_WITHIN_S = 90.0
END_WITHIN_S = 20.0
log = logging.getLogger("wardround.up")


@dataclass(frozen=True)
class LocalHospital:
    """One hospital of this machine.

    Attributes:
        name: Its name.
        study: The study it has data for.
        source: Where its items are.
    """

    name: str
    study: str
    source: SiteSource


def federation_folder(home: Path) -> Path:
    """Return the coordinator's folder of a home."""
    return home / "federation"


def write_hospitals(home: Path, hospitals: Sequence[LocalHospital]) -> None:
    """Write each hospital's settings: where its items are."""
    for hospital in hospitals:
        folder = federation_folder(home) / "hospitals" / hospital.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One hospital alone is a federation too, on a laptop.
        settings = HospitalSettings(sources={hospital.study: hospital.source}, policy=Policy(min_sites=1))
        write_whole(folder / FILE, json.dumps(settings.model_dump(mode="json"), indent=1).encode())


def start(home: Path) -> int:
    """Start the supervisor and wait until the federation is ready; return its process id.

    Raises:
        ServiceError: If a part does not come up; its log says why.
    """
    folder = federation_folder(home)
    running = supervisor(home)
    if running is not None:
        raise ServiceError(f"the federation is up already (process {running}); end it with  wardround down")
    with suppress(FileNotFoundError):
        (folder / UP).unlink()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(folder / "up.log", "wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
            [sys.executable, "-m", "flows.local_federation", str(home)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    deadline = time.monotonic() + READY_WITHIN_S
    while not (folder / UP).exists():
        if process.poll() is not None or time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                process.terminate()
            raise ServiceError(f"the federation did not come up; {folder / 'up.log'} says why")
        time.sleep(0.05)
    process.returncode = 0  # it goes on without us
    return process.pid


def stop(home: Path) -> bool:
    """End a federation and wait until all of it has ended; False if there was none."""
    process = supervisor(home)
    if process is None:
        return False
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + END_WITHIN_S
    while supervisor(home) is not None:
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.05)
    return True


def supervisor(home: Path) -> int | None:
    """Return the process id of a federation's supervisor, if it runs."""
    try:
        process = int(json.loads((federation_folder(home) / UP).read_text())["supervisor"])
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError, KeyError):
        return None
    return process if b"flows.local_federation" in command else None


def supervise(home: Path) -> None:
    """Start every part, and keep it running until SIGTERM."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    folder = federation_folder(home)
    with ExitStack() as stack:
        prefect = stack.enter_context(EmbeddedPrefect.start(home, ui=True))
        port = _port(folder)
        config = CoordinatorConfig(
            federation="local",
            address=f"https://127.0.0.1:{port}",
            database=f"sqlite:///{folder / 'gateway.db'}",
            prefect_url=prefect.api_url,
            require_ready=False,  # it is this machine itself, and somebody waits
        )
        init_coordinator(folder, config, names=["127.0.0.1"], port=port)
        parts = [Part("gateway", ["components.gateway.serve", str(folder / GATEWAY_FILE)], folder / "gateway.log")]
        stack.callback(_end_all, parts)
        parts[0].start()
        prefect.wait_ready()
        _wait_for_gateway(config.address, folder / "secrets" / "ca.pem", parts[0])
        for hospital in sorted((folder / "hospitals").iterdir()):
            if not SiteFolder(hospital).credential.exists():
                enrol(invite(folder, hospital.name), SiteFolder(hospital))
            part = Part(hospital.name, ["flows.hospital_process", str(hospital)], hospital / "worker.log")
            part.start()
            parts.append(part)
        write_whole(folder / UP, json.dumps({"supervisor": os.getpid(), "gateway": config.address}).encode())
        stack.callback(lambda: (folder / UP).unlink(missing_ok=True))
        while not told.wait(0.5):
            for part in parts:
                part.keep()


class Part:
    """One child process, started again when it ends by itself.

    Args:
        name: For the log.
        module: The module it runs, and its arguments.
        output: File of its output.
    """

    def __init__(self, name: str, module: list[str], output: Path) -> None:
        self._name, self._module, self._output = name, module, output
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with open(self._output, "ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
                [sys.executable, "-m", *self._module],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
            )  # fmt: skip

    def keep(self) -> None:
        """Start it again if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            log.warning("%s ended with %s and is started again", self._name, self._process.returncode)
            self.start()

    @property
    def ended(self) -> bool:
        """Whether it is not running."""
        return self._process is None or self._process.poll() is not None

    def end(self) -> None:
        """End it in order, or else by force."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_WITHIN_S / 2)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _end_all(parts: Sequence[Part]) -> None:
    """End the hospitals, then the gateway."""
    for part in reversed(parts):
        part.end()


def _port(folder: Path) -> int:
    """Return the gateway's port: the same as last time, which the hospitals have pinned, or a free one."""
    try:
        return int(json.loads((folder / GATEWAY_FILE).read_text())["port"])
    except (FileNotFoundError, ValueError, KeyError):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])


def _wait_for_gateway(address: str, authority: Path, part: Part) -> None:
    """Wait until the gateway answers.

    Raises:
        ServiceError: If it ends instead.
    """
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{address}/v1/health", verify=str(authority)).is_success:
                return
        if part.ended or time.monotonic() > deadline:
            raise ServiceError("the gateway did not come up; gateway.log says why")
        time.sleep(0.05)


def main(arguments: Sequence[str]) -> int:
    """Supervise the federation of a home; return what the process exits with."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        supervise(Path(arguments[0]))
    except WardRoundError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
