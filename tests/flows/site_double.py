"""A site process that starts at once: a real process that speaks the protocol of one, and does what a file says."""

import socket
import subprocess
import sys
from pathlib import Path

from flows.early import SiteProcess, site_environment

# It answers every call with a preparation whose reason says who answered; before that it does what the file
# `<state>/do` says: die (each time), die-once, grow (by 50 MB each time), wait (for ever).
PROGRAM = """
import json, os, pathlib, signal, sys, time
(setting,) = json.load(sys.stdin)
orders, grown = pathlib.Path(setting["state"], "do"), []
for line in open(int(sys.argv[1]), "rb", buffering=0):
    call = json.loads(line)
    order = orders.read_text() if orders.exists() else ""
    if order == "die-once":
        orders.unlink()
    if order.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "grow":
        grown.append(b"x" * 50_000_000)
    if order == "wait":
        orders.with_name("waits").touch()
        time.sleep(600)
    said = {"pid": os.getpid(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "environment": sorted(os.environ),
            "study": setting["study"]["study"]}
    result = {"site": setting["source"]["name"], "ready": False, "reason": json.dumps(said)}
    os.write(int(sys.argv[1]), json.dumps({"id": call["id"], "result": result}).encode() + b"\\n")
"""


def spawn_double(count: int, *, clean: bool, gpu: str | None) -> SiteProcess:
    """Start the program as `flows.early.spawn_site_process` starts a site's process."""
    pairs = [socket.socketpair() for _ in range(count)]
    theirs = [pair[1].fileno() for pair in pairs]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, theirs)], stdin=subprocess.PIPE, pass_fds=theirs, process_group=0,
        env=site_environment(clean=clean) | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
    )  # fmt: skip
    for pair in pairs:
        pair[1].close()
    return SiteProcess(process, [pair[0] for pair in pairs])


def tell_double(state: Path, order: str) -> None:
    """Say what it does at the next call."""
    state.mkdir(parents=True, exist_ok=True)
    (state / "do").write_text(order)
