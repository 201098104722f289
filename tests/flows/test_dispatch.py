"""The pool without its sites: what happens to calls when processes end. With sites: `tests/end_to_end`."""

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from components.dispatch import SiteSetting
from components.errors import StudyError, WardRoundError
from components.site_source import SiteSource, SourcePart
from flows import dispatch
from flows.dispatch import PoolDispatcher, assign, open_dispatcher
from flows.early import SiteProcess
from tests.end_to_end.ward import wait_until
from tests.references.tiny_study import tiny_study

IDLE = "import sys, time; sys.stdin.read(); time.sleep(600)"


class IdlePool:
    """A pool over processes that do nothing; `theirs` are the ends on which a site's process would answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.theirs: list[socket.socket] = []
        monkeypatch.setattr(dispatch, "spawn_site_process", self.spawn)
        part = SourcePart(site="site-1", kind="folder", path="/nowhere")
        source = SiteSource(name="site-1", parts=[part])
        settings = {"site-1": SiteSetting(study=tiny_study(), source=source, state="/nowhere", store="/nowhere")}
        self.pool = PoolDispatcher(settings, self.spawn(2), {})

    def spawn(self, count: int, *, clean: bool = False) -> SiteProcess:
        process = subprocess.Popen([sys.executable, "-c", IDLE], stdin=subprocess.PIPE, start_new_session=True)
        pairs = [socket.socketpair() for _ in range(count)]
        self.theirs += [pair[1] for pair in pairs]
        return SiteProcess(process, [pair[0] for pair in pairs])

    def asked(self, number: int) -> dict[str, Any]:
        """The next call that arrives at one of the ends."""
        with self.theirs[number].makefile("rb") as lines:
            call: dict[str, Any] = json.loads(lines.readline())
        return call

    def answer(self, number: int, call: dict[str, Any], **result: Any) -> None:
        self.theirs[number].sendall(json.dumps({"id": call["id"], **result}).encode() + b"\n")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[IdlePool]:
    made = IdlePool(monkeypatch)
    yield made
    made.pool.close()
    for end in made.theirs:
        end.close()


READY = {"site": "site-1", "ready": False, "reason": "no items"}


def test_a_call_is_answered(idle: IdlePool) -> None:
    future = idle.pool.prepare("site-1")
    idle.answer(0, idle.asked(0), result=READY)
    assert future.result(30).reason == "no items"


def test_an_error_keeps_its_kind_and_message(idle: IdlePool) -> None:
    future = idle.pool.prepare("site-1")
    idle.answer(0, idle.asked(0), error={"kind": "StudyError", "message": "no such network"})
    with pytest.raises(StudyError, match="no such network"):
        future.result(30)


def test_calls_of_a_process_that_died_are_made_again_once(idle: IdlePool) -> None:
    future = idle.pool.prepare("site-1")
    first = idle.asked(0)
    idle.theirs[0].close()
    replaced = until(idle, 3)
    assert (replaced["call"], replaced["payload"]) == (first["call"], first["payload"])
    idle.theirs[2].close()
    with pytest.raises(WardRoundError, match="the process that should prepare died twice"):
        future.result(30)
    with pytest.raises(WardRoundError, match="died twice"):
        idle.pool.prepare("site-1").result(30)


def until(idle: IdlePool, ends: int) -> dict[str, Any]:
    """Wait for a replacement, and return its first call."""
    assert wait_until(lambda: len(idle.theirs) == ends, limit_s=30)
    return idle.asked(ends - 1)


def test_closing_fails_what_waits_for_an_answer(idle: IdlePool) -> None:
    future = idle.pool.initialise(tiny_study())
    idle.pool.close()
    with pytest.raises(WardRoundError, match="the sites' processes were ended"):
        future.result(30)


def test_an_answer_nobody_waits_for_any_more_is_dropped_in_silence(
    idle: IdlePool, caplog: pytest.LogCaptureFixture
) -> None:
    """A site that answers after the deadline: its future was cancelled."""
    late = idle.pool.prepare("site-1")
    call = idle.asked(0)
    assert late.cancel()
    after: Future[Any] = idle.pool.prepare("site-1")
    with caplog.at_level(logging.DEBUG):
        idle.answer(0, call, result=READY)
        idle.answer(0, idle.asked(0), result=READY)
        assert after.result(30).reason == "no items"
    assert caplog.records == []


def test_the_largest_site_gets_a_process_of_its_own() -> None:
    assert assign(["a", "b", "c", "d"], 2, {"a": 1, "b": 60, "c": 25, "d": 15}) == {"b": 0, "c": 1, "d": 1, "a": 1}


@pytest.mark.parametrize("kind", ["processes:0", "processes:-1", "processes:", "threads", "in-process:2"])
def test_an_unknown_dispatcher_is_refused(kind: str) -> None:
    with pytest.raises(StudyError, match="give auto, in-process, or processes:N with N of 1 or more"):
        open_dispatcher(kind, {}, {})
