"""Which code is running: the distribution's version, and the commit where it runs from a checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def code_version() -> str:
    """Return for example ``0.1.0+g1a2b3c4`` (a checkout), ``0.1.0+g1a2b3c4.changed``, or ``0.1.0`` (installed)."""
    try:
        number = version("wardround")
    except PackageNotFoundError:
        number = "0"
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return number
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty=.changed", "--exclude=*"]
    found = subprocess.run(describe, capture_output=True, text=True, check=False)  # noqa: S603
    return f"{number}+g{found.stdout.strip()}" if found.returncode == 0 else number
