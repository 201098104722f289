"""Ctrl-C and SIGTERM: the first one stops a training cleanly, the second one ends the process as ever."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """While inside, SIGTERM is a KeyboardInterrupt as Ctrl-C is, so that what is open is closed on the way out.

    Only in the main thread, which alone may handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_on_interrupt(stop: asyncio.Event) -> Iterator[None]:
    """While inside, the first Ctrl-C or SIGTERM sets `stop`; needs a running event loop."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()

    def request() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, request)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
