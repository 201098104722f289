"""Whether this home's servers do what they should: ``python -m flows.health``, a container's health check.

Light on purpose: it runs every minute beside a training, so it imports neither prefect, MLflow nor torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.embedded_mlflow import MLFLOW
from flows.embedded_prefect import PREFECT
from flows.embedded_server import is_silent


def silent_servers(home: Path) -> list[str]:
    """Names of the embedded servers that run for a home and do not answer; that none runs is not wrong.

    Args:
        home: The WardRound home.
    """
    return [program.name for program in (PREFECT, MLFLOW) if is_silent(program, home / program.folder)]


def main() -> int:
    """Print what is wrong, if anything is, and return the exit status."""
    home = Path(os.environ.get("WARDROUND_HOME", ".wardround"))
    silent = silent_servers(home)
    for name in silent:
        print(f"The {name} server of {home} runs but does not answer.")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
