"""The child's half of an embedded server: what was received is written before the application is shut down."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from flows.embedded_child import ChildServer


def test_what_was_received_is_written_before_the_application_ends() -> None:
    order: list[str] = []

    async def application(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        while scope["type"] == "lifespan":
            step = (await receive())["type"]
            order.append(step)
            await send({"type": f"{step}.complete"})
            if step == "lifespan.shutdown":
                return

    async def write() -> None:
        order.append("write")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = ChildServer(uvicorn.Config(application, log_level="warning"), write)

        async def serve_once() -> None:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            server.handle_exit(15, None)
            await serving

        asyncio.run(serve_once())
    assert order == ["lifespan.startup", "write", "lifespan.shutdown"]
