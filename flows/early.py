"""What is started before anything heavy is imported: the Prefect server and the process of the sites.

Both take seconds to come up, on their own, while this process imports torch, reads the study and looks
for the data. This module imports none of that.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flows.packages import ROOT as ROOT
from flows.packages import with_packages
from flows.servers import EmbeddedServer, open_prefect, prefect_environment

# Which of its kernels a numerical library uses: with another choice the last bits of a sum are others.
NUMERICS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES", "ATEN_CPU_CAPABILITY", "MKL_CBWR",
            "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "CUBLAS_WORKSPACE_CONFIG")  # fmt: skip
CLEAN = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR", "WARDROUND_DATA", "WARDROUND_FAILPOINT", "XDG_CACHE_HOME",
         "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", *NUMERICS)  # fmt: skip


@dataclass(frozen=True)
class SiteProcess:
    """A process that will act as sites once it is told which; it forks a child for each connection.

    Attributes:
        process: The process; it leads a group of its own, so that Ctrl-C is the coordinator's to handle. Not a
            session: Linux shares a processor out by sessions, and training would get the smallest share.
        connections: One for each child.
        clean: Whether it is a hospital's; see `spawn_site_process`.
    """

    process: subprocess.Popen[bytes]
    connections: list[socket.socket]
    clean: bool = False


@dataclass(frozen=True)
class EarlyStart:
    """What is coming up.

    Attributes:
        prefect: The environment variables that name the Prefect server and how it is used.
        wait_for_prefect: Returns once the server answers; raises `ServiceError` if it does not.
        sites: The sites' process; None if sites run in this process.
    """

    prefect: dict[str, str]
    wait_for_prefect: Callable[[], object]
    sites: SiteProcess | None


@contextmanager
def early_start(home: Path, dispatcher: str) -> Iterator[EarlyStart]:
    """Start what takes long, and end on leaving what nobody has taken over.

    Args:
        home: Folder of everything recorded.
        dispatcher: As of `flows.dispatch.open_dispatcher`; a wrong one is refused there.

    Raises:
        ServiceError: If ``PREFECT_API_URL`` names a server that does not answer.
    """
    with ExitStack() as stack:
        server = open_prefect(home)
        stack.enter_context(server)
        own = home if isinstance(server, EmbeddedServer) else None
        sites = None
        count = training_processes(dispatcher)
        if count:
            sites = spawn_site_process(count + 1)
            stack.callback(end_site_process, sites.process)
        prefect = prefect_environment(server.api_url, own, user=os.environ)
        yield EarlyStart(prefect, server.wait_ready, sites)


def training_processes(dispatcher: str) -> int:
    """Return how many processes train under a dispatcher; 0 if the sites run in this process.

    >>> training_processes("processes:3"), training_processes("in-process")
    (3, 0)
    """
    name, _, number = dispatcher.partition(":")
    if dispatcher == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(number) if name == "processes" and number.isdigit() else 0


def spawn_site_process(count: int, *, clean: bool = False, gpu: str | None = None) -> SiteProcess:
    """Start a process that serves `count` connections; it waits for its settings on standard input.

    Args:
        count: How many children it may fork.
        clean: It is a hospital's: it gets only the variables of `CLEAN`, so that with the patients' data it has
            neither key, credential nor address of anything; its output stays in the site's folder, and what it
            says of an error is redacted.
        gpu: The only GPU it shall see, as ``CUDA_VISIBLE_DEVICES`` names it.
    """
    pairs = [socket.socketpair() for _ in range(count)]
    theirs = [pair[1].fileno() for pair in pairs]
    process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
        [sys.executable, "-m", "flows.site_process", *(["--hospital"] if clean else []), *map(str, theirs)],
        stdin=subprocess.PIPE,
        pass_fds=theirs,
        process_group=0,
        env=site_environment(clean=clean) | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
    )
    for pair in pairs:
        pair[1].close()
    return SiteProcess(process, [pair[0] for pair in pairs], clean)


def site_environment(*, clean: bool) -> dict[str, str]:
    """Return the environment of a site's process; see `spawn_site_process`."""
    threads = os.environ.get("WARDROUND_THREADS", "1")
    environment = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for a GPU must not initialise CUDA before the fork
    }
    inherited = {name: os.environ[name] for name in CLEAN if name in os.environ} if clean else os.environ
    return with_packages({**inherited, **environment})


def end_site_process(process: subprocess.Popen[bytes]) -> None:
    """Kill a site process and the children it forked; may be called twice."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        process.wait()
