"""A gateway as a process of its own, and two on one database."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from components.gateway.client import GatewayClient, enrol
from components.gateway.database import Database
from components.gateway.grants import Grants
from components.gateway.records import SlotKey
from components.gateway.serve import main
from components.gateway.sites import Sites
from components.gateway.tokens import Invitation
from components.gateway.transport import Route, client_context
from components.governance.identity_files import CoordinatorFolder, SiteFolder
from tests.components.gateway.gates import envelope, until

pytestmark = pytest.mark.timeout(90)
Start = Callable[[Path, int], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def start(config: Path, port: int) -> subprocess.Popen[bytes]:
            told = {**json.loads(config.read_text()), "port": port}
            own = config.with_name(f"{port}.json")
            own.write_text(json.dumps(told))
            command = [sys.executable, "-m", "components.gateway.serve", str(own)]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE))
            stack.callback(process.kill)
            return process

        yield start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config(folder: Path) -> Path:
    secrets = CoordinatorFolder(folder).make("ward", names=["localhost"], ips=["127.0.0.1"])
    told = {
        "federation": "ward",
        "coordinator": {
            "signing_key": secrets.signing.public.base64, "sealing_key": secrets.sealing.public.base64,
        },
        "secrets": str(folder / "secrets"),
        "exchange": str(folder / "exchange"),
        "database": f"sqlite:///{folder / 'g.db'}",
        "host": "127.0.0.1",
    }  # fmt: skip
    path = folder / "gateway.json"
    path.write_text(json.dumps(told))
    return path


def answers(folder: Path, port: int) -> bool:
    context = client_context((folder / "secrets" / "ca.pem").read_text(), Route(), None)
    try:
        with httpx.Client(verify=context) as client:
            return client.get(f"https://127.0.0.1:{port}/v1/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_delivery_survives_the_gateway_s_death_and_ends_at_another(start: Start, tmp_path: Path) -> None:
    ports, told = [free_port(), free_port()], config(tmp_path)
    first, second = (start(told, port) for port in ports)
    until(lambda: all(answers(tmp_path, port) for port in ports))
    database = Database(f"sqlite:///{tmp_path / 'g.db'}")
    authority = CoordinatorFolder(tmp_path).read().authority.sha256
    site = SiteFolder(tmp_path / "north")
    invitation = Invitation(
        gateway=f"https://127.0.0.1:{ports[0]}", authority=authority, federation="ward", site="north"
    )
    enrol(Sites(database).invite(invitation).text, site)
    slot = SlotKey(training="chest", round=1, attempt=1, site="north")
    Grants(database).open_slot(slot, max_bytes=1 << 30)
    payload = tmp_path / "payload"
    payload.write_bytes(b"w" * 30_000_000)
    with GatewayClient(site) as client:
        client.upload(slot, payload)
        first.kill()
        first.wait()
    pinned = site.read_federation()
    site.write_federation(pinned.model_copy(update={"gateway": f"https://127.0.0.1:{ports[1]}"}))
    with GatewayClient(site) as client:
        client.deliver(slot, payload, envelope(site, slot, payload.read_bytes()))
    assert (tmp_path / "exchange" / "sealed" / slot.folder / "envelope.json").exists()
    database.close()
    second.send_signal(signal.SIGTERM)
    _, said = second.communicate(timeout=60)
    assert second.returncode in (0, -signal.SIGTERM)
    assert b"Traceback" not in said


def test_a_config_that_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path)
    path.write_text(path.read_text().replace('"federation"', '"federacion"'))
    assert main([str(path)]) == 6
    assert "federation" in capsys.readouterr().err
    assert main([]) == 2
