"""A real gateway: uvicorn with TLS on loopback, real keys and certificates, SQLite on a disk."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from components.exchange.keys import SigningKey
from components.exchange.signed import UPDATE
from components.exchange.signing import sign
from components.gateway.client import GatewayClient, enrol
from components.gateway.connections import DoorLoop
from components.gateway.database import Database
from components.gateway.grants import Grants
from components.gateway.prefect_proxy import PrefectRoute
from components.gateway.records import CoordinatorKeys, SlotKey
from components.gateway.serve import GatewayServer, Serve, make_server
from components.gateway.sites import Sites
from components.gateway.tokens import Invitation
from components.gateway.transport import Route, client_context, httpx_settings
from components.governance.identity_files import CoordinatorFolder, CoordinatorSecrets, SiteFolder

LIMIT_S = 20.0


def until(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Wait until a condition holds, and return what it returned."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
    return found


class Running:
    """A gateway in a thread of this process."""

    def __init__(self, server: GatewayServer) -> None:
        self.server = server
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(lambda: server.started or not self._thread.is_alive())
        assert server.started
        self.port = server.port

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=DoorLoop) as runner:
            runner.run(self.server.serve())

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@dataclass
class Gate:
    """A federation with a gateway, as its operator and its hospitals have it."""

    folder: Path
    secrets: CoordinatorSecrets
    database: Database
    running: Running
    settings: Serve

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.running.port}"

    @property
    def sites(self) -> Sites:
        return Sites(self.database)

    @property
    def grants(self) -> Grants:
        return Grants(self.database)

    @property
    def exchange(self) -> Path:
        return self.settings.exchange

    def token(self, site: str, **life: float) -> str:
        invitation = Invitation(
            gateway=self.address, authority=self.secrets.authority.sha256, federation="ward", site=site
        )
        return self.sites.invite(invitation, **life).text

    def enrol(self, site: str) -> SiteFolder:
        folder = SiteFolder(self.folder / "sites" / site)
        enrol(self.token(site), folder)
        return folder

    def client(self, folder: SiteFolder, *, signed: bool = False, patience_s: float = 30.0) -> GatewayClient:
        return GatewayClient(folder, Route(signed=signed, patience_s=patience_s))

    def http(self, folder: SiteFolder | None, *, signed: bool = False) -> httpx.Client:
        """Return a bare client, with the credential of a site or with none."""
        if folder is None:
            context = client_context(self.secrets.authority.pem.decode(), Route(), None)
            return httpx.Client(base_url=self.address, verify=context, timeout=60)
        return httpx.Client(base_url=self.address, timeout=60, **httpx_settings(folder, Route(signed=signed)))

    def put_object(self, digest: str, content: bytes) -> None:
        path = self.exchange / "objects" / f"{digest}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def open_slot(self, site: str, *, max_bytes: int = 1 << 24, round_number: int = 1) -> SlotKey:
        slot = SlotKey(training="chest-1", round=round_number, attempt=1, site=site)
        self.grants.open_slot(slot, max_bytes=max_bytes)
        return slot


@dataclass
class Build:
    """Starts gateways of one federation."""

    folder: Path
    secrets: CoordinatorSecrets
    made: list[tuple[Running, Database]]

    def __call__(self, routes: Sequence[PrefectRoute] = (), **changes: Any) -> Gate:
        keys = CoordinatorKeys(
            signing_key=self.secrets.signing.public.base64, sealing_key=self.secrets.sealing.public.base64
        )
        settings = Serve(
            federation="ward", coordinator=keys, secrets=self.folder / "secrets", exchange=self.folder / "exchange",
            database=f"sqlite:///{self.folder / 'gateway.db'}", host="127.0.0.1", port=0,
        ).model_copy(update=changes)  # fmt: skip
        database = Database(settings.database)
        running = Running(make_server(settings, database, routes))
        self.made.append((running, database))
        return Gate(self.folder, self.secrets, database, running, settings)


@contextmanager
def gates(folder: Path) -> Iterator[Build]:
    """Make a federation in a folder, and end the gateways that were started for it."""
    build = Build(folder, CoordinatorFolder(folder).make("ward", names=["localhost"], ips=["127.0.0.1"]), [])
    try:
        yield build
    finally:
        for running, database in build.made:
            running.stop()
            database.close()


def envelope(folder: SiteFolder, slot: SlotKey, payload: bytes | None, **changes: object) -> bytes:
    fields = {"protocol": 1, "federation": "ward", **slot.model_dump(), "nonce": "n"}
    if payload is not None:
        fields |= {"sealed_sha256": hashlib.sha256(payload).hexdigest(), "sealed_bytes": len(payload)}
    key = SigningKey.load(folder.state / "keys" / "signing.key")
    return sign(UPDATE, {**fields, **changes}, key).model_dump_json().encode()
