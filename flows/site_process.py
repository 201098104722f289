"""A process that does the sites' work in a simulation: imports once, forks, then answers calls.

Run as ``python -m flows.site_process FD [FD ...]``, with the settings of all sites as JSON on standard
input. It imports torch, Lightning and the study's network once, forks one child for each socket, and
each child answers the calls that arrive on its own. Calls and answers are lines of JSON; nothing is
pickled. A child whose socket closes (its coordinator is gone) ends at once, even in mid-training.

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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flows.lean import lean_imports

if TYPE_CHECKING:
    from components.study import Study
    from flows.site_host import SiteHost


def serve(connection: socket.socket, host: SiteHost) -> None:
    """Answer the calls of one socket, in the order of their arrival, until it closes."""
    from components.errors import WardRoundError
    from flows.site_host import call

    calls: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_calls, args=(connection, calls.put), daemon=True).start()
    while True:
        request = json.loads(calls.get())
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["result"] = call(host, request["call"], request["payload"])
        except WardRoundError as error:
            answer["error"] = {"kind": type(error).__name__, "message": str(error)}
        except Exception as error:
            answer["error"] = {"kind": "", "message": f"{type(error).__name__}: {error}"}
        connection.sendall(json.dumps(answer).encode() + b"\n")


def _read_calls(connection: socket.socket, put: Callable[[bytes], None]) -> None:
    """Queue what arrives; end the process as soon as the other end is gone."""
    with connection.makefile("rb") as lines:
        for line in lines:
            put(line)
    os._exit(0)


def main(descriptors: list[int]) -> None:
    """Import, fork a child for each socket, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with lean_imports():
        from components.dispatch import SiteSetting
        from flows.site_host import SiteHost

        settings = {raw["source"]["name"]: SiteSetting.model_validate(raw) for raw in json.load(sys.stdin)}
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
    serve(socket.socket(fileno=own), host)


def _warm(host: SiteHost, study: Study) -> None:
    """Build the network and a first optimiser before forking: their imports take seconds.

    Nothing here may touch CUDA: a process that did cannot fork children that do.
    """
    import torch

    torch.set_num_threads(int(os.environ.get("WARDROUND_THREADS", "1")))
    if study.network.name != "CNN" or study.data.source != "npz":
        import monai  # noqa: F401 - the data's transforms and most networks
    module = host.module(study)
    torch.optim.SGD(module.parameters(), lr=0.1)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
