"""Ctrl-C and SIGTERM: the first one stops a training cleanly, the second one ends the process as ever."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from types import FrameType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


class Interruptible:
    """While inside, SIGTERM is a KeyboardInterrupt as Ctrl-C is, so that what is open is closed on the way out.

    Only in the main thread, which alone may handle signals.
    """

    def __enter__(self) -> Self:
        self._asked = 0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def check(self) -> None:
        """Raise the KeyboardInterrupt of a signal again, in case that a library's import has swallowed it."""
        if self._asked:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        raise KeyboardInterrupt


def run_stoppable(run: Callable[[], Coroutine[Any, Any, T]], stop: asyncio.Event) -> T:
    """Run a coroutine to its end, in an event loop and a thread of its own.

    In a thread, because in the main one Prefect takes SIGTERM for itself and raises out of whatever is being
    done, be it a write to the journal; and because a notebook has a loop running already.

    Args:
        run: Makes the coroutine; it sees the caller's context variables.
        stop: Is set by the first Ctrl-C or SIGTERM. The second one ends the waiting here.

    Returns:
        What the coroutine returned; what it raised is raised.
    """
    driven = _Driven(run)
    with _FirstSignal(lambda: driven.call_soon(stop.set)):
        driven.start()
        return driven.done.result()


async def until_told(*work: Coroutine[Any, Any, None], log: logging.Logger) -> None:
    """Run work side by side until SIGTERM or SIGINT; a piece that fails ends the others."""
    together = asyncio.gather(*work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, together.cancel)
    try:
        await together
    except asyncio.CancelledError:
        log.info("told to end")


class _Driven(Generic[T]):
    """A coroutine in a loop and a thread of its own."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.done: Future[T] = Future()
        self._run = run
        self._loop = asyncio.new_event_loop()

    def start(self) -> None:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._drive,), daemon=True, name="flow").start()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call something in the loop, unless that has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def _drive(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                result = runner.run(self._run())
        except BaseException as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(result)


class _FirstSignal:
    """While inside, the first SIGINT or SIGTERM makes a call, and gives both signals back."""

    def __init__(self, request: Callable[[], None]) -> None:
        self._request = request
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.__exit__()
        self._request()
