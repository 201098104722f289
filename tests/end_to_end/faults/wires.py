"""What can happen between a hospital and the gateway: a link that is cut, stalls or is slow, a relay that breaks HTTP.

A `Link` passes bytes on, so that TLS stays end to end. A `Relay` ends TLS, as the proxies of hospitals do that inspect
it, and sees each request.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.gateway.transport import Route
from components.governance.identity_files import SiteFolder
from flows.health import HEARTBEAT
from flows.hospital_route import FILE, keep_route
from tests.end_to_end.faults.trained import Trained
from tests.end_to_end.middlebox import certificate_of, make_authority
from tests.end_to_end.served import Served

PIECE = 1 << 14
Fate = Literal["pass", "502", "half", "unanswered", "twice"]


class Link(Served):
    """A way to a port of this machine.

    Args:
        port: Where it leads.
        bytes_per_s: How fast; None for as fast as it goes.
    """

    def __init__(self, port: int, *, bytes_per_s: float | None = None) -> None:
        super().__init__()
        self._leads_to, self._bytes_per_s = port, bytes_per_s
        self._whole, self._flowing = threading.Event(), asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self.passed = 0
        self._whole.set()
        self._flowing.set()

    def cut(self) -> None:
        """Break all connections, and let none in."""
        self._whole.clear()
        self._loop.call_soon_threadsafe(self._break)

    def stall(self) -> None:
        """Pass nothing on, and tell nobody."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def heal(self) -> None:
        """Be whole again; what was stalled goes on its way."""
        self._whole.set()
        self._loop.call_soon_threadsafe(self._flowing.set)

    def _break(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole.is_set():
            writer.transport.abort()
            return
        ends = {writer}
        try:
            await self._flowing.wait()
            there, upstream = await asyncio.open_connection("127.0.0.1", self._leads_to)
            ends.add(upstream)
            self._open |= ends
            await asyncio.gather(self._pump(reader, upstream), self._pump(there, writer))
        except (OSError, asyncio.CancelledError):
            pass  # one of the two has gone, or all of it ends
        finally:
            self._open -= ends
            for end in ends:
                with suppress(OSError, RuntimeError):
                    end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(PIECE if self._bytes_per_s is None else 512):
                if self._bytes_per_s is not None:
                    await asyncio.sleep(len(piece) / self._bytes_per_s)
                await self._flowing.wait()
                writer.write(piece)
                await writer.drain()
                self.passed += len(piece)
        finally:
            with suppress(OSError, RuntimeError):
                writer.close()


@dataclass(frozen=True)
class Asked:
    """One request on its way.

    Attributes:
        line: Method and target.
        text: All of it.
    """

    line: str
    text: bytes


class Relay(Served):
    """A proxy that ends TLS in front of a gateway.

    Args:
        port: The gateway's.
        network: The folder of its own authority.
        trusts: The federation's authority.
        decide: What becomes of each request; called in the relay's thread.
    """

    def __init__(self, port: int, *, network: Path, trusts: Path, decide: Callable[[Asked], Fate]) -> None:
        super().__init__()
        self._leads_to, self._decide = port, decide
        self._shows = certificate_of(network, "127.0.0.1")
        self._expects = ssl.create_default_context(cafile=trusts)
        self.fates: list[tuple[str, Fate]] = []
        self.second_answers: list[int] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            await writer.start_tls(self._shows)
            there, upstream = await asyncio.open_connection("127.0.0.1", self._leads_to, ssl=self._expects)
            while await self._pass(reader, writer, there, upstream):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of the two has gone, or all of it ends
        finally:
            for end in filter(None, (writer, upstream)):
                with suppress(OSError, RuntimeError):
                    end.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        there: asyncio.StreamReader, upstream: asyncio.StreamWriter,
    ) -> bool:  # fmt: skip
        """Pass a request and its answer on; return whether the connection goes on."""
        text = await read_message(reader)
        asked = Asked(text.partition(b"\r\n")[0].decode("latin1").removesuffix(" HTTP/1.1"), text)
        fate = self._decide(asked)
        self.fates.append((asked.line, fate))
        if fate == "502":
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return True
        body = len(text) - text.index(b"\r\n\r\n") - 4
        upstream.write(text[: -body // 2] if fate == "half" else text)
        await upstream.drain()
        if fate == "half":
            return False
        answer = await read_message(there, asked.line.startswith("HEAD"))
        if fate == "twice":
            upstream.write(text)
            await upstream.drain()
            self.second_answers.append(int((await read_message(there)).split(b" ", 2)[1]))
        if fate == "unanswered":
            return False
        writer.write(answer)
        await writer.drain()
        return b"connection: close" not in answer.partition(b"\r\n\r\n")[0].lower()


async def read_message(reader: asyncio.StreamReader, head_only: bool = False) -> bytes:
    """Return a request or an answer, whole; the gateway knows bodies of a stated length only."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    stated = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
    return head + (b"" if head_only or not stated else await reader.readexactly(stated))


@contextmanager
def linked(trained: Trained, site: str, **how: float) -> Iterator[Link]:
    """Have a hospital reach its gateway by a link of ours only."""
    link = Link(gateway_port(trained, site), **how)
    link.start()
    try:
        with reached_by(trained, site, link.port):
            yield link
    finally:
        link.stop()


@contextmanager
def relayed(trained: Trained, site: str, decide: Callable[[Asked], Fate], *, let_in: bool = True) -> Iterator[Relay]:
    """Have a hospital reach its gateway by a relay of ours only, which ends TLS: so it signs its requests.

    Args:
        trained: The federation.
        site: The hospital.
        decide: What becomes of each of its requests.
        let_in: Whether the gateway lets it in by that way.
    """
    network, folder = trained.ward.home.parent / f"network of {site}", trained.ward.hospital(site)
    given = network / "given.pem" if network.exists() else make_authority(network)
    authority = trained.ward.home / "federation" / "secrets" / "ca.pem"
    relay = Relay(gateway_port(trained, site), network=network, trusts=authority, decide=decide)
    with ExitStack() as stack:
        relay.start()
        stack.callback(relay.stop)
        keep_route(folder, Route(authority_file=given, signed=True))
        stack.enter_context(reached_by(trained, site, relay.port, let_in=let_in))
        stack.callback((folder / FILE).unlink)
        yield relay


@contextmanager
def reached_by(trained: Trained, site: str, port: int, *, let_in: bool = True) -> Iterator[None]:
    """Have a hospital believe that its gateway is at another port of this machine."""
    folder = SiteFolder(trained.ward.hospital(site))
    pinned = folder.read_federation()
    folder.write_federation(pinned.model_copy(update={"gateway": f"https://127.0.0.1:{port}"}))
    restart(trained, site, let_in=let_in)
    try:
        yield
    finally:
        folder.write_federation(pinned)
        restart(trained, site)


def restart(trained: Trained, site: str, *, let_in: bool = True) -> None:
    """Have a hospital's worker begin anew, and wait until the gateway has heard of it, if it lets it in."""
    ward, before = trained.ward, trained.ward.worker(site)
    with suppress(ProcessLookupError):  # one that is not let in ends by itself
        os.kill(before, signal.SIGKILL)
    ward.until(lambda: ward.worker(site) != before)
    if let_in:
        hear_of(trained, site)


def hear_of(trained: Trained, site: str) -> None:
    """Wait until the gateway has answered a hospital's next heartbeat."""
    beat = trained.ward.hospital(site) / HEARTBEAT
    beat.unlink(missing_ok=True)
    trained.ward.until(beat.exists)


def gateway_port(trained: Trained, site: str) -> int:
    """Return the port of the gateway that a hospital has pinned."""
    return int(SiteFolder(trained.ward.hospital(site)).read_federation().gateway.rpartition(":")[2])
