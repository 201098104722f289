"""A process that does the sites' work in a simulation: imports once, forks, then answers calls.

Run as ``python -m flows.site_process FD [FD ...]``, with the settings of all sites as JSON on standard
input. It imports torch, Lightning and the study's network once, forks one child for each socket, and
each child answers the calls that arrive on its own. Calls and answers are lines of JSON; nothing is
pickled. While a child trains it says how far it is, in lines that nobody asked for::

    {"id": 4, "call": "answer", "payload": {...}}  ->
    {"progress": {"site": "north", "epoch": 2, "share": 0.43, ...}}  <-
    {"id": 4, "result": {...}}  <-

A child whose socket closes (its coordinator is gone) ends at once, even in mid-training.

At a hospital (``--hospital``) it is the border: it has the patients' data, and what it answers goes on to the
coordinator. There its output goes into ``process.log`` in the site's state folder, which stays at the hospital, and
of an error it tells what `components.redaction` lets through. Where it is told no study, it answers the questions of
analyses (`flows.desk_host`), and imports none of that.

It never imports Prefect, and the heavy imports come when this module runs, under `lean_imports`: a site's
process is slow enough to start as it is.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flows.lean import lean_imports

if TYPE_CHECKING:
    from components.dispatch import Progress, SiteSetting
    from components.study import Study
    from flows.site_host import SiteHost

LOG = "process.log"
_LOG_BYTES = 16 << 20  # of a log that is older than this process; the one before it is kept, too


def serve(
    connection: socket.socket,
    call: Callable[[str, Mapping[str, Any]], Any],
    *,
    keep: Collection[str] | None = None,
    rest: Callable[[], None] | None = None,
) -> NoReturn:
    """Answer the calls of one socket, in the order of their arrival, until it closes and the process ends.

    Args:
        connection: Where calls come from and answers go to.
        call: Does the work: from the name of a call and its payload to its result.
        rest: Is called after each.
        keep: At a hospital, the identifiers that stay in what is told of an error; None if nothing leaves this
            machine, and everything is told.
    """
    calls: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_calls, args=(connection, calls.put), daemon=True).start()
    while True:
        request = json.loads(calls.get())
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            result = call(request["call"], request["payload"])
            answer["result"] = result if keep is None else _fit_to_leave(result, keep)
        except Exception as error:
            answer["error"] = _told(error, request["call"], keep)
        connection.sendall(json.dumps(answer).encode() + b"\n")
        if rest is not None:
            rest()


def _tell(connection: socket.socket, progress: Progress) -> None:
    """Say how far a training is, between the answers; the same thread gives those."""
    with suppress(OSError):  # the other end is gone: `_read_calls` ends the process
        connection.sendall(json.dumps({"progress": progress.model_dump()}).encode() + b"\n")


def _known(settings: Iterable[SiteSetting]) -> set[str]:
    """Return what the coordinator knows anyway, since it wrote it: names of sites, studies and their lists."""
    from components.history import UNITS  # pydantic comes with it

    studies = [(setting.source.name, setting.study) for setting in settings]
    words = {word for site, study in studies for word in (site, study.study, study.data.table, study.data.datalist)}
    tables = [study.data.records for _, study in studies if study.data.records is not None]
    words |= {level for table in tables if table.arm for level in table.arm.levels}
    features = [feature for table in tables for feature in table.encoded]
    words |= {unit for unit in UNITS if "/" in unit} if features else set()
    return words | {word for feature in features for word in (feature.name, feature.column_name, feature.unit)}


def _told(error: Exception, stage: str, keep: Collection[str] | None) -> dict[str, str]:
    """Return what is told of an error; at a hospital, all of it goes into the log before."""
    from components.errors import WardRoundError
    from components.redaction import failure_of

    kind = type(error).__name__ if isinstance(error, WardRoundError) else ""
    if keep is None:
        return {"kind": kind, "message": str(error) if kind else f"{type(error).__name__}: {error}"}
    traceback.print_exception(error)
    return {"kind": kind, "message": failure_of(error, stage, keep=keep).message}


def _fit_to_leave(result: Any, keep: Collection[str]) -> Any:
    """Return a result with its reason redacted, if it has one; the whole reason is in the site's journal."""
    from components.redaction import redact

    if isinstance(result, dict) and result.get("reason"):
        return {**result, "reason": redact(result["reason"], keep=keep)}
    return result


def _keep_output(state: Path) -> None:
    """Send what this process and its libraries print, from here on, into a file of the site's own folder.

    Where that cannot be written, it goes where the hospital's own process prints, which is at the hospital, too.
    """
    path = state / LOG
    with suppress(OSError):
        state.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(state / f"{LOG}.1")
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


def _read_calls(connection: socket.socket, put: Callable[[bytes], None]) -> None:
    """Queue what arrives; end the process as soon as the other end is gone."""
    # One that was killed before it read an answer has reset the connection, which is an end as well.
    with suppress(OSError), connection.makefile("rb") as lines:
        for line in lines:
            put(line)
    os._exit(0)


def main(descriptors: list[int], *, hospital: bool = False) -> None:
    """Import, fork a child for each socket, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told: list[dict[str, Any]] | None = None
    if hospital:
        told = json.load(sys.stdin)
        _keep_output(Path(told[0]["state"]))
        if "study" not in told[0]:
            _serve_desk(socket.socket(fileno=descriptors[0]), told[0])
    with lean_imports():
        from components.dispatch import SiteSetting
        from components.training.memory import release_memory
        from flows.site_host import SiteHost, call

        settings = {raw["source"]["name"]: SiteSetting.model_validate(raw) for raw in told or json.load(sys.stdin)}
        host = SiteHost(settings)
        _warm(host, next(iter(settings.values())).study)
    own, *others = descriptors[: len(settings) + 1]  # a child for each site at the most, and one for exports
    for descriptor in others:
        if os.fork() == 0:
            own = descriptor
            break
    for descriptor in descriptors:
        if descriptor != own:
            os.close(descriptor)
    connection, keep = socket.socket(fileno=own), _known(settings.values()) if hospital else None
    host.tell(partial(_tell, connection))
    serve(connection, partial(call, host), keep=keep, rest=release_memory)  # another study may have this GPU next


def _serve_desk(connection: socket.socket, told: dict[str, Any]) -> NoReturn:
    """Answer the questions of analyses, without torch; the process ends when the socket closes."""
    from components.dispatch import DeskSetting
    from flows.desk_host import DeskHost

    serve(connection, DeskHost(DeskSetting.model_validate(told)).call, keep=())


def _warm(host: SiteHost, study: Study) -> None:
    """Build the network and a first optimiser before forking: their imports take seconds.

    Nothing here may touch CUDA: a process that did cannot fork children that do.
    """
    import torch

    torch.set_num_threads(int(os.environ.get("WARDROUND_THREADS", "1")))
    if study.data.records is None and (study.network.name != "CNN" or study.data.source != "npz"):
        import monai  # noqa: F401 - the data's transforms and most networks
    module = host.module(study)
    torch.optim.SGD(module.parameters(), lr=0.1)


if __name__ == "__main__":
    options = sys.argv[1:]
    main([int(option) for option in options if option != "--hospital"], hospital="--hospital" in options)
