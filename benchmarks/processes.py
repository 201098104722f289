"""The processes of a federation on this machine, and the memory of each kind."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import descendants, high_water_mark
from flows.local_record import supervisor

# What of a command line says what a process is; the first that is found counts.
KINDS = {
    "warm process": "flows.site_process",
    "hospital worker": "flows.hospital_process",
    "gateway": "components.gateway.serve",
    "Prefect": "embedded_prefect_child",
    "MLflow": "embedded_mlflow_child",
    "coordinator": "coordinator serve",
    "PostgreSQL": "postgres",
}
WORKER, WARM = "hospital worker", "warm process"


@dataclass(frozen=True)
class Memory:
    """What a process holds, in bytes.

    Attributes:
        resident: Its resident memory, with what it shares.
        own: Its proportional share: what several processes share is divided among them, so that it adds up.
        peak: Most resident memory so far.
    """

    resident: int
    own: int
    peak: int


def memory_by_kind(home: Path) -> dict[str, list[Memory]]:
    """Return the memory of every process of a federation, by what it is; empty where none is up."""
    running = supervisor(home)
    found: dict[str, list[Memory]] = {}
    for pid in descendants(running.pid) if running is not None else ():
        memory = memory_of(pid)
        if memory is not None:
            found.setdefault(kind_of(pid), []).append(memory)
    return found


def kind_of(pid: int) -> str:
    """Return what a process is, for people."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "other"
    return next((kind for kind, word in KINDS.items() if word in command), "other")


def memory_of(pid: int | str = "self") -> Memory | None:
    """Return what a process holds; None if it is gone, or there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    if "Rss:" not in sizes:  # it ended while it was looked at
        return None
    return Memory(sizes["Rss:"], sizes["Pss:"], high_water_mark(pid))


def available_bytes() -> int:
    """Return how much memory the machine could still give."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def shares(found: Mapping[str, Sequence[Memory]], kind: str) -> int:
    """Return what all processes of a kind hold together."""
    return sum(memory.own for memory in found.get(kind, []))


def middle(found: Sequence[Memory], name: str) -> float:
    """Return the median of a number of several processes; 0 of none."""
    return statistics.median(getattr(memory, name) for memory in found) if found else 0.0
