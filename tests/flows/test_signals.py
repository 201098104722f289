import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from signal import SIGINT, SIGTERM, Signals

import pytest

from flows.signals import Interruptible, run_stoppable

BOTH = pytest.mark.parametrize("number", [SIGINT, SIGTERM])
found: ContextVar[int] = ContextVar("found")


@pytest.fixture(autouse=True)
def _handlers_are_given_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (SIGINT, SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] == before


@BOTH
def test_the_first_signal_sets_the_stop_and_nothing_is_interrupted(number: Signals) -> None:
    stop = asyncio.Event()

    async def work() -> str:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 30)
        return "done"

    assert run_stoppable(work, stop) == "done"


@BOTH
def test_the_second_signal_ends_the_waiting(number: Signals) -> None:
    stop = asyncio.Event()

    async def work() -> None:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 30)
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    with Interruptible(), pytest.raises(KeyboardInterrupt):
        run_stoppable(work, stop)


def test_sigterm_is_ctrl_c_while_everything_starts() -> None:
    with Interruptible(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(SIGTERM)


def test_an_interrupt_that_an_import_swallowed_is_raised_again() -> None:
    with Interruptible() as interrupted:
        interrupted.check()
        with suppress(KeyboardInterrupt):
            signal.raise_signal(SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interrupted.check()


def test_an_error_is_raised_and_context_is_seen() -> None:
    async def work() -> None:
        raise ValueError(found.get())

    token = found.set(5)
    with pytest.raises(ValueError, match="5"):
        run_stoppable(work, asyncio.Event())
    found.reset(token)


def test_it_runs_beside_a_loop_that_is_running_already() -> None:
    async def work() -> int:
        return 3

    async def notebook() -> int:
        return run_stoppable(work, asyncio.Event())

    assert asyncio.run(notebook()) == 3
