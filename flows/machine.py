"""What a hospital's machine has: its GPUs and its memory, found without PyTorch and without touching CUDA."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_LISTED = re.compile(
    r"^(?P<slice>\s*)(?:GPU \d+|MIG .*Device\s+\d+): .*\(?UUID: (?P<name>(?:GPU|MIG)-[\w/-]+)\)", re.MULTILINE
)


def gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that may be used, each as ``CUDA_VISIBLE_DEVICES`` names it; none where there is none.

    That variable decides where it is set. Else the driver is asked; a GPU that is divided (MIG) counts as its parts.

    >>> gpus({"CUDA_VISIBLE_DEVICES": "0,2"}), gpus({"CUDA_VISIBLE_DEVICES": ""})
    (['0', '2'], [])
    """
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return listed_gpus(_ask_driver()) or [path.name.removeprefix("nvidia") for path in _devices()]
    names = [name.strip() for name in given.split(",")]
    usable = [not name or name.startswith("-") for name in names] + [True]
    return names[: usable.index(True)]  # as CUDA reads it: up to the first that is none


def listed_gpus(listing: str) -> list[str]:
    r"""Return the names in what ``nvidia-smi -L`` printed; in place of a GPU in parts its parts.

    >>> listed_gpus("GPU 0: NVIDIA A2 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n"
    ...             "  MIG 1g.10gb Device  0: (UUID: MIG-3)\n  MIG 1g.10gb Device  1: (UUID: MIG-4)\n")
    ['GPU-1', 'MIG-3', 'MIG-4']
    """
    found: list[str] = []
    for line in _LISTED.finditer(listing):
        if line["name"].startswith("MIG") and found and found[-1].startswith("GPU"):
            found.pop()
        found.append(line["name"])
    return found


def machine_memory() -> int:
    """Return the bytes of memory that this machine, or the container on it, may use; 0 if that cannot be found."""
    with suppress(OSError, ValueError, IndexError):
        total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
        return min([int(total.split()[1]) * 1024, *_cgroup_limits()])
    return 0


def held_memory(groups: Collection[int]) -> int:
    """Return the bytes of memory that all processes of some process groups hold.

    What processes share, as those do that one was forked from the other, is counted once. 0 where there is no
    ``/proc``.
    """
    return sum(_held(folder) for folder in Path("/proc").glob("[0-9]*") if _group(folder) in groups)


def _ask_driver() -> str:
    """Return what the driver's own tool lists, if it is there."""
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout if asked.returncode == 0 else ""


def _devices() -> list[Path]:
    """Return the driver's devices, for a container that has them without the driver's tool."""
    return sorted((path for path in Path("/dev").glob("nvidia[0-9]*")), key=lambda path: (len(path.name), path.name))


def _cgroup_limits() -> Iterator[int]:
    """Yield the limits of this container."""
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # absent, or "max"
            yield int(Path(path).read_text())


def _group(folder: Path) -> int:
    """Return the group of a process; 0 if it is over."""
    try:
        # After the command's name, which may hold anything: state, parent, group.
        return int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[2])
    except (OSError, IndexError, ValueError):
        return 0


def _held(folder: Path) -> int:
    """Return what a process holds, with its part of what it shares; 0 if it is over."""
    with suppress(OSError, ValueError, StopIteration):
        lines = (folder / "smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    with suppress(OSError, ValueError, IndexError):
        return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
