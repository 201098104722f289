"""Where this installation's packages lie, for the processes that it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def with_packages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a child finds these very packages first, whatever folder it works in.

    Args:
        environment: The environment it gets otherwise; what its ``PYTHONPATH`` names comes after.
    """
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(path)}
