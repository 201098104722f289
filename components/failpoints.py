"""Named places where a test may kill a process, to prove that a crash there loses nothing.

For tests only. ``WARDROUND_FAILPOINT=journal.before:committed`` kills the process (SIGKILL, so nothing is
flushed and no handler runs) the first time it reaches that place; ``journal.before:committed:3`` the third
time. ``WARDROUND_FAILPOINT=/FOLDER`` arms the places that the folder has a file of: of all the processes that
share it, the first to come there removes the file and is killed, or kills the processes that the file names.

The variable is read once, when this module is imported: without it a failpoint costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

_ARMED = os.environ.get("WARDROUND_FAILPOINT", "")
_FOLDER = Path(_ARMED) if os.path.isabs(_ARMED) else None
_HITS = itertools.count(1)


def parse_failpoint(armed: str) -> tuple[str, int]:
    """Split ``name`` or ``name:k`` into the name and the hit that kills, counted from 1.

    >>> parse_failpoint("journal.after:planned:3")
    ('journal.after:planned', 3)
    >>> parse_failpoint("journal.after:planned")
    ('journal.after:planned', 1)
    """
    name, _, hit = armed.rpartition(":")
    return (name, int(hit)) if name and hit.isdigit() else (armed, 1)


_NAME, _HIT = parse_failpoint(_ARMED)


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if ``WARDROUND_FAILPOINT`` names this place and this hit of it."""
    if not _ARMED:
        return
    if _FOLDER is not None:
        _meet(_FOLDER / name)
    elif name == _NAME and next(_HITS) == _HIT:
        os.kill(os.getpid(), signal.SIGKILL)


def _meet(armed: Path) -> None:
    """Disarm a place, if it is armed, and kill whom its file names: this process if it names none."""
    try:
        named = armed.read_text(encoding="utf-8").split()
        armed.unlink()  # of several processes, exactly one
    except FileNotFoundError:
        return
    for process in named or [str(os.getpid())]:
        os.kill(int(process), signal.SIGKILL)
