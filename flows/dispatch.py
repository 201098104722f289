"""Dispatchers that run the sites on this machine: in this process, or in a pool of processes."""

from __future__ import annotations

import contextvars
import itertools
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components import errors
from components.analytics.records import AnalysisAnswer
from components.dispatch import DeskQuestion, DeskSetting, Dispatcher, InitialModel, Preparation, Progress, SiteSetting
from components.rounds import Answer, Order
from components.study import Study
from components.table_sums import Fitted
from flows.early import SiteProcess, end_site_process, spawn_site_process, training_processes

if TYPE_CHECKING:
    from flows.site_host import SiteHost

T = TypeVar("T")
RunOrder = Callable[["SiteHost", Order], Answer]


class InProcessDispatcher:
    """Runs every site in this process, one order at a time, in a thread of its own.

    The place for a debugger; `PoolDispatcher` is faster wherever there are two cores.

    Args:
        settings: The sites, by name.
        run: How an order is run; by default plainly, `flows.site.run_site_flow` makes it a Prefect run.
    """

    def __init__(self, settings: Mapping[str, SiteSetting], run: RunOrder | None = None) -> None:
        self._settings = dict(settings)
        self._run = run or (lambda host, order: host.answer(order))
        self._work = ThreadPoolExecutor(1, thread_name_prefix="sites")
        self._made: SiteHost | None = None

    def initialise(self, study: Study, fitted: Fitted | None = None) -> Future[InitialModel]:
        """See `components.dispatch.Dispatcher`."""
        return self._work.submit(lambda: self._host().initialise(study, fitted))

    def prepare(self, site: str) -> Future[Preparation]:
        """See `components.dispatch.Dispatcher`."""
        return self._work.submit(lambda: self._host().prepare(site))

    def submit(self, order: Order) -> Future[Answer]:
        """See `components.dispatch.Dispatcher`."""
        # The context of the flow that sends the order goes along, so that the site's run becomes its subflow.
        context = contextvars.copy_context()
        return self._work.submit(context.run, lambda: self._run(self._host(), order))

    def export(self, study: Study, file: Path) -> Future[Path]:
        """See `components.dispatch.Dispatcher`."""
        return self._work.submit(lambda: self._host().export(study, file))

    def close(self) -> None:
        """Wait for the order in hand, drop the rest, let go of the sites' journals."""
        self._work.shutdown(cancel_futures=True)
        if self._made is not None:
            self._made.close()

    def _host(self) -> SiteHost:
        if self._made is None:
            from flows.site_host import SiteHost  # torch and Lightning, only in the process that trains

            self._made = SiteHost(self._settings)
        return self._made


_Call = tuple[str, dict[str, Any], Future[Any]]  # name, payload, and where the answer goes


class _Child:
    """One child of a site process: a socket, and the calls that wait for an answer on it."""

    def __init__(
        self, connection: socket.socket, lost: Callable[[_Child], None], progressed: Callable[[Progress], None]
    ) -> None:
        self._connection = connection
        self._lost = lost
        self._progressed = progressed
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, _Call] = {}

    def listen(self) -> None:
        """Read answers in a thread, until the other end is gone."""
        threading.Thread(target=self._read, daemon=True, name="site-process").start()

    def call(self, name: str, payload: dict[str, Any], future: Future[Any]) -> None:
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = (name, payload, future)
        line = json.dumps({"id": number, "call": name, "payload": payload}).encode() + b"\n"
        try:
            self._connection.sendall(line)
        except OSError:
            return  # the reader sees the same end of the connection and reports it

    def end(self) -> list[_Call]:
        """Close the connection; return the calls that still wait for an answer, which are the caller's now."""
        self._connection.close()
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        return waiting

    def _read(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    said = json.loads(line)
                    if "progress" in said:
                        self._progressed(Progress.model_validate(said["progress"]))
                    else:
                        self._resolve(said)
        except (OSError, ValueError):
            pass
        self._lost(self)

    def _resolve(self, answer: dict[str, Any]) -> None:
        with self._lock:
            waited = self._waiting.pop(answer["id"], None)
        if waited is None:  # the connection was closed meanwhile
            return
        _, _, future = waited
        if "error" in answer:
            kind = getattr(errors, answer["error"]["kind"] or "WardRoundError")
            message = answer["error"]["message"]
            future.set_exception(kind(message) if kind is not errors.SiteError else errors.WardRoundError(message))
        else:
            future.set_result(answer["result"])


class PoolDispatcher:
    """Runs the sites in a pool of processes; each site stays in one, with its data and network warm.

    Sites are assigned by size, largest first, to the least loaded process. A process that dies is
    replaced once and its calls are made again (an order made twice trains once); a second death fails
    them with `LostError`.

    Args:
        settings: The sites, by name.
        sites: The process to use, which must have a connection for each process that trains, and one more
            for what is done beside: exporting the network for its users. One alone does both.
        sizes: Items of each site, as far as known, for the assignment.
        spawn: Starts a process with one connection, in the place of one that died.
        progressed: Is told how far a training is, by a thread of the pool's own.
    """

    def __init__(
        self,
        settings: Mapping[str, SiteSetting | DeskSetting],
        sites: SiteProcess,
        sizes: Mapping[str, int],
        *,
        spawn: Callable[[], SiteProcess] | None = None,
        progressed: Callable[[Progress], None] | None = None,
    ) -> None:
        self._settings = dict(settings)
        self._spawn = spawn or (lambda: spawn_site_process(1, clean=sites.clean))
        self._progressed = progressed or (lambda _: None)
        self._closed = False
        self._turn = threading.RLock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._replaced: set[int] = set()
        self._dead: set[int] = set()
        self._assigned = assign(list(settings), min(len(settings), max(len(sites.connections) - 1, 1)), sizes)
        self._children = self._adopt(sites)
        for child in self._children:
            child.listen()

    def initialise(self, study: Study, fitted: Fitted | None = None) -> Future[InitialModel]:
        """See `components.dispatch.Dispatcher`."""
        payload = {"study": study.model_dump_json(), "fitted": fitted.model_dump(mode="json") if fitted else None}
        return self._call(-1, "initialise", payload, InitialModel.model_validate)

    def prepare(self, site: str) -> Future[Preparation]:
        """See `components.dispatch.Dispatcher`."""
        return self._call(self._assigned[site], "prepare", {"site": site}, Preparation.model_validate)

    def submit(self, order: Order) -> Future[Answer]:
        """See `components.dispatch.Dispatcher`."""
        return self._call(
            self._assigned[order.site], "answer", {"order": order.model_dump_json()}, Answer.model_validate
        )

    def ask(self, site: str, question: DeskQuestion) -> Future[AnalysisAnswer]:
        """Put a question of an analysis to a site whose setting is a `DeskSetting`."""
        return self._call(
            self._assigned[site], "ask", {"question": question.model_dump_json()}, AnalysisAnswer.model_validate_json
        )

    def export(self, study: Study, file: Path) -> Future[Path]:
        """See `components.dispatch.Dispatcher`."""
        return self._call(-1, "export", {"study": study.model_dump_json(), "file": str(file)}, Path)

    @property
    def groups(self) -> list[int]:
        """The process groups of all processes it had; some may be over."""
        return [process.pid for process in self._processes]

    @property
    def lost(self) -> bool:
        """Whether a place has no process any more: it and its replacement died."""
        with self._turn:
            return bool(self._dead)

    def forgive(self) -> None:
        """Let each process be replaced once more: work was done since one died."""
        with self._turn:
            self._replaced.clear()

    def close(self) -> None:
        """End the processes; orders in flight are abandoned."""
        with self._turn:
            self._closed = True
            for child in self._children:
                for _, _, future in child.end():
                    future.set_exception(errors.WardRoundError("the sites' processes were ended"))
        for process in self._processes:
            end_site_process(process)

    def _call(self, index: int, name: str, payload: dict[str, Any], parse: Callable[[Any], T]) -> Future[T]:
        raw: Future[Any] = Future()
        parsed: Future[T] = Future()
        raw.add_done_callback(lambda done: _pass_on(done, parsed, parse))
        with self._turn:  # a call reaches a child before its loss is dealt with, or else its successor
            if index % len(self._children) in self._dead:
                raw.set_exception(_died_twice(name))
            else:
                self._children[index].call(name, payload, raw)
        return parsed

    def _adopt(self, sites: SiteProcess) -> list[_Child]:
        """Tell a site process which sites it is for, and listen to its children."""
        self._processes.append(sites.process)
        settings = json.dumps([setting.model_dump(mode="json") for setting in self._settings.values()])
        threading.Thread(target=_send_settings, args=(sites.process, settings.encode()), daemon=True).start()
        return [
            _Child(connection, self._child_lost, self._progressed)
            for connection in sites.connections[: len(self._settings) + 1]
        ]

    def _child_lost(self, child: _Child) -> None:
        with self._turn:
            if not self._closed and child in self._children:
                self._replace(self._children.index(child))

    def _replace(self, index: int) -> None:
        """Put a new child in the place of one that died, and make its calls again; once."""
        waiting = self._children[index].end()
        child = None if index in self._replaced else self._successor()
        if child is None:
            self._dead.add(index)
            for name, _, future in waiting:
                future.set_exception(_died_twice(name))
            return
        self._replaced.add(index)
        self._children[index] = child
        self._children[index].listen()
        for name, payload, future in waiting:
            self._children[index].call(name, payload, future)

    def _successor(self) -> _Child | None:
        """Start another process in the place of one; None if the machine refuses even that."""
        try:
            return self._adopt(self._spawn())[0]
        except OSError:
            return None


def _died_twice(call: str) -> errors.LostError:
    """Return the error of a call whose process and its replacement both died."""
    return errors.LostError(
        f"the process that should {call} died twice; was it out of memory? Try fewer of them: --dispatcher processes:1"
    )


def assign(sites: Sequence[str], processes: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Assign sites to processes, the largest first, each to the least loaded process.

    >>> assign(["a", "b", "c"], 2, {"a": 60, "b": 25, "c": 15})
    {'a': 0, 'b': 1, 'c': 1}
    """
    load = [0] * processes
    assigned = {}
    for site in sorted(sites, key=lambda name: (-sizes.get(name, 1), name)):
        index = load.index(min(load))
        load[index] += max(sizes.get(site, 1), 1)
        assigned[site] = index
    return assigned


def open_dispatcher(
    kind: str, settings: Mapping[str, SiteSetting], sizes: Mapping[str, int], sites: SiteProcess | None = None
) -> Dispatcher:
    """Open a dispatcher by name.

    Args:
        kind: ``auto`` (a process for each core), ``processes:N``, or ``in-process``.
        settings: The sites, by name.
        sizes: Items of each site, as far as known.
        sites: A process that was started early, by `flows.early.early_start` with the same `kind`.

    Raises:
        StudyError: If there is no such dispatcher.
    """
    if kind == "in-process":
        return InProcessDispatcher(settings, _run_as_flow)
    count = training_processes(kind)
    if not count:
        raise errors.StudyError(f"--dispatcher is {kind!r}; give auto, in-process, or processes:N with N of 1 or more")
    return PoolDispatcher(settings, sites or spawn_site_process(count + 1), sizes)


def _run_as_flow(host: SiteHost, order: Order) -> Answer:
    """Run an order as a Prefect flow run of its own; not before the first round, when Prefect may not be there yet."""
    if order.plan.instructions.get("components"):
        return host.answer(order)
    from flows.site import run_site_flow  # Prefect, only once its settings are known

    return run_site_flow(host, order)


def _send_settings(process: subprocess.Popen[bytes], settings: bytes) -> None:
    """Hand the settings to a site process without waiting for its imports."""
    assert process.stdin is not None
    try:
        process.stdin.write(settings)
        process.stdin.close()
    except (OSError, ValueError):
        return  # it died, its sockets tell; or it was ended meanwhile, and the pipe closed


def _pass_on(done: Future[Any], parsed: Future[T], parse: Callable[[Any], T]) -> None:
    """Resolve one future from another, through a parser; nobody may wait for it any more."""
    if not parsed.set_running_or_notify_cancel():
        return
    try:
        parsed.set_result(parse(done.result()))
    except Exception as error:
        parsed.set_exception(error)
