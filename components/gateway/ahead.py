"""An upload that begins while its payload is still being made, so that sealing and sending take their time together."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from components.errors import WardRoundError
from components.gateway.client import PART_BYTES, GatewayClient
from components.gateway.records import SlotKey

log = logging.getLogger("wardround.gateway")


class UploadAhead:
    """Brings what is there of a payload, from its first byte, until the gateway takes no more.

    It never fails: what it could not bring, `GatewayClient.deliver` brings, from where this broke off. The client
    is this object's own until it is closed. In memory are at most the part on its way and the one being filled.

    Args:
        client: The way to the gateway.
        slot: The slot of the payload.
    """

    def __init__(self, client: GatewayClient, slot: SlotKey) -> None:
        self._client, self._slot = client, slot
        self._waiting, self._sent = bytearray(), 0
        self._sender = ThreadPoolExecutor(1)
        self._on_its_way: Future[bool] | None = None
        self._goes_on = True

    def take(self, piece: bytes) -> None:
        """Bring the next piece; waits where the part before is still on its way and the next is full."""
        if self._goes_on:
            self._waiting += piece
            while len(self._waiting) >= PART_BYTES:
                self._send(self._waiting[:PART_BYTES])
                del self._waiting[:PART_BYTES]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._waiting:
            self._send(self._waiting)
        self._arrived()
        self._sender.shutdown()

    def _send(self, part: bytearray) -> None:
        """Send a part, once the one before has arrived."""
        if self._arrived():
            self._on_its_way = self._sender.submit(self._bring, self._sent, bytes(part))
            self._sent += len(part)

    def _arrived(self) -> bool:
        """Wait for the part on its way; return whether everything arrived so far."""
        if self._on_its_way is not None:
            self._goes_on, self._on_its_way = self._on_its_way.result(), None
        return self._goes_on

    def _bring(self, offset: int, part: bytes) -> bool:
        """Bring a part; return whether all of it is there."""
        try:
            return self._client.bring_part(self._slot, offset, part) == offset + len(part)
        except WardRoundError as error:
            log.info("an upload waits until its payload is whole: %s", error)
            return False
