"""Whether what runs in a container does what it should: its health check.

::

    python -m flows.health              the servers of this home, where some run
    python -m flows.health URL [CA]     one server; with a file of its authority, over TLS
    python -m flows.health FOLDER       a hospital: the coordinator took its heartbeat not long ago;
                                        a coordinator: it asked Prefect not long ago for what is due

Light on purpose: it runs every minute beside a training, so it imports neither prefect, MLflow nor torch.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from flows.embedded_mlflow import MLFLOW
from flows.embedded_prefect import PREFECT
from flows.embedded_server import is_silent

HEARTBEAT = "heartbeat"  # a hospital, and a coordinator, touch this file of their folder when the other end answered
COORDINATOR_FILE = "coordinator.json"  # only a coordinator's folder has it
HEARD_WITHIN_S = 300.0
ANSWER_WITHIN_S = 8.0


def silent_servers(home: Path) -> list[str]:
    """Names of the embedded servers that run for a home and do not answer; that none runs is not wrong.

    Args:
        home: The WardRound home.
    """
    return [program.name for program in (PREFECT, MLFLOW) if is_silent(program, home / program.folder)]


def server_trouble(url: str, authority: str = "") -> str:
    """Return what is wrong with a server, empty if it answers as it should.

    Args:
        url: Its health page, on this machine.
        authority: File of the authority that its certificate must be of. The name in the certificate is the one
            that hospitals use, so it is not compared with this address.
    """
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    try:
        if authority:
            context = ssl.create_default_context(cafile=authority)
            context.check_hostname = False
            handlers.append(urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(url, timeout=ANSWER_WITHIN_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"{url} answers {error.code}"
    except OSError as error:
        return f"{url} does not answer ({getattr(error, 'reason', error)})"


def hospital_trouble(folder: Path, *, now: float | None = None) -> str:
    """Return what is wrong with the hospital of a folder, empty if the coordinator heard of it not long ago."""
    return _silence(folder, now, "the coordinator has not heard of this hospital")


def coordinator_trouble(folder: Path, *, now: float | None = None) -> str:
    """Return what is wrong with ``wardround coordinator serve``, empty if Prefect answered it not long ago."""
    return _silence(folder, now, "the coordinator has not been told by Prefect what is due")


def _silence(folder: Path, now: float | None, what: str) -> str:
    """Return that a folder's heartbeat is not there, or for how long it has been silent."""
    try:
        heard = (folder / HEARTBEAT).stat().st_mtime
    except OSError:
        return f"{what} yet; its log says why"
    silent = (time.time() if now is None else now) - heard
    return f"{what} for {silent:.0f} s" if silent > HEARD_WITHIN_S else ""


def main(arguments: Sequence[str]) -> int:
    """Print what is wrong, if anything is, and return the exit status."""
    home = Path(os.environ.get("WARDROUND_HOME", ".wardround"))
    if not arguments:
        troubles = [f"The {name} server of {home} runs but does not answer." for name in silent_servers(home)]
    elif "://" in arguments[0]:
        troubles = [server_trouble(*arguments[:2])]
    else:
        folder = Path(arguments[0])
        troubles = [(coordinator_trouble if (folder / COORDINATOR_FILE).exists() else hospital_trouble)(folder)]
    said = [trouble for trouble in troubles if trouble]
    print(*said, sep="\n", end="\n" if said else "")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
