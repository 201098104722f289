"""Run one gateway: ``python -m components.gateway.serve CONFIG.json``. SIGTERM ends it in order.

CONFIG.json has the fields of `Serve`. The port is open when ``GET /v1/health`` answers; several gateways may run
on one database and one exchange.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import uvicorn
from pydantic import Field, ValidationError

from components.errors import StorageError, WardRoundError
from components.files import shown, storage_errors
from components.gateway.app import Gateway
from components.gateway.connections import DoorConfig, DoorLoop, server_context
from components.gateway.database import Database
from components.gateway.prefect_proxy import PrefectRoute
from components.gateway.prefect_routes import ROUTES
from components.gateway.settings import Settings
from components.mistakes import first_mistake


class Serve(Settings):
    """What `serve` is told: the gateway's settings, and where it listens.

    Attributes:
        database: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one, which the log names.
    """

    database: Annotated[str, Field(repr=False)]
    host: str = "0.0.0.0"  # noqa: S104 - it is the federation's door
    port: Annotated[int, Field(ge=0, le=65535)] = 8443


class GatewayServer(uvicorn.Server):
    """uvicorn with a gateway; whoever waits for work is let go before it ends."""

    def __init__(self, config: DoorConfig, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """End in order."""
        await self._gateway.let_go()
        await super().shutdown(sockets)  # type: ignore[arg-type]
        for connection in list(self.server_state.connections):  # it has waited for them long enough
            connection.transport.abort()

    @property
    def port(self) -> int:
        """The port it listens on, once it has started."""
        return int(self.servers[0].sockets[0].getsockname()[1])


def make_server(settings: Serve, database: Database, routes: Sequence[PrefectRoute]) -> GatewayServer:
    """Return a gateway that is ready to serve."""
    gateway, folder = Gateway(settings, database, routes), settings.secrets
    with storage_errors("read", folder):
        context = server_context(folder / "gateway.pem", folder / "gateway.key", folder / "ca.pem")
    config = DoorConfig(
        gateway.app, context=context, limits=settings.limits, host=settings.host, port=settings.port,
        access_log=False, log_config=None,
    )  # fmt: skip
    return GatewayServer(config, gateway)


def read_config(path: Path) -> Serve:
    """Read CONFIG.json.

    Raises:
        StorageError: If it cannot be read, or a field is not as it must be.
    """
    with storage_errors("read", path):
        text = path.read_bytes()
    try:
        return Serve.model_validate_json(text)
    except ValidationError as error:
        raise StorageError(f"{shown(path)}: {first_mistake(error, 'the file')}; mend it and start again") from error


def main(arguments: Sequence[str]) -> int:
    """Run a gateway until it is told to end; return what the process exits with."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if len(arguments) != 1:
        print("usage: python -m components.gateway.serve CONFIG.json", file=sys.stderr)
        return 2
    try:
        settings = read_config(Path(arguments[0]))
        database = Database(settings.database)
        server = make_server(settings, database, ROUTES)
    except WardRoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    with asyncio.Runner(loop_factory=DoorLoop) as runner:
        runner.run(server.serve())
    database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
