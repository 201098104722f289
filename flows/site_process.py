"""A process that does the sites' work in a simulation: imports once, forks, then answers calls.

Run as ``python -m flows.site_process FD [FD ...]``, with the settings of all sites as JSON on standard
input. It imports torch, Lightning and the study's network once, forks one child for each socket, and
each child answers the calls that arrive on its own. Calls and answers are lines of JSON; nothing is
pickled. A child whose socket closes (its coordinator is gone) ends at once, even in mid-training.

It never imports Prefect: a site's process is slow enough to start as it is.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.dispatch import InitialModel, Preparation, SiteSetting
from components.errors import WardRoundError
from components.exchange.store import FolderStore
from components.rounds import Answer, Order
from components.site import SiteRuntime, initialise
from components.study import Study
from flows.build import build_module, export_network

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


class SiteHost:
    """What one process does for all sites assigned to it; sites share the network, not the data."""

    def __init__(self, settings: Mapping[str, SiteSetting]) -> None:
        self._settings = dict(settings)
        self._runtimes: dict[str, SiteRuntime] = {}
        self._modules: dict[str, LightningModule] = {}

    def module(self, study: Study) -> LightningModule:
        """Return the study's network, built once, with the study's own initial weights."""
        if study.digest not in self._modules:
            self._modules[study.digest] = build_module(study)
        return self._modules[study.digest]

    def initialise(self, study: Study) -> InitialModel:
        """Put the study's initial weights into the exchange."""
        store = FolderStore(next(iter(self._settings.values())).store)
        return initialise(study, store, build_module(study))

    def prepare(self, site: str) -> Preparation:
        """Let a site open its data."""
        return self._runtime(site).prepare()

    def answer(self, order: Order) -> Answer:
        """Let a site answer an order."""
        return self._runtime(order.site).answer(order)

    def export(self, study: Study, file: Path) -> Path:
        """Export the study's network for its users."""
        export_network(study, file)
        return file

    def close(self) -> None:
        """Let go of the sites' journals."""
        for runtime in self._runtimes.values():
            runtime.close()
        self._runtimes.clear()

    def _runtime(self, site: str) -> SiteRuntime:
        if site not in self._runtimes:
            setting = self._settings[site]
            self._runtimes[site] = SiteRuntime(setting, lambda: self.module(setting.study))
        return self._runtimes[site]


def call(host: SiteHost, name: str, payload: Mapping[str, Any]) -> Any:
    """Make one call that arrived as JSON; return its result as JSON."""
    if name == "initialise":
        return host.initialise(Study.model_validate_json(payload["study"])).model_dump(mode="json")
    if name == "prepare":
        return host.prepare(payload["site"]).model_dump(mode="json")
    if name == "answer":
        return host.answer(Order.model_validate_json(payload["order"])).model_dump(mode="json")
    if name == "export":
        return str(host.export(Study.model_validate_json(payload["study"]), Path(payload["file"])))
    raise ValueError(f"unknown call {name!r}")


def serve(connection: socket.socket, host: SiteHost) -> None:
    """Answer the calls of one socket, in the order of their arrival, until it closes."""
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
    import torch  # the process's own cost, paid once before it forks

    torch.set_num_threads(int(os.environ.get("WARDROUND_THREADS", "1")))
    if study.network.name != "CNN" or study.data.source != "npz":
        with _kept_out("mlflow", "pandas"):
            import monai  # noqa: F401
    module = host.module(study)
    torch.optim.SGD(module.parameters(), lr=0.1)


@contextmanager
def _kept_out(*names: str) -> Iterator[None]:
    """Make packages look absent, unless they are imported already.

    MONAI imports whatever it finds installed, for handlers that nobody here uses; these two are a quarter
    of the seconds a site's process needs to start.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: importing it fails
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
