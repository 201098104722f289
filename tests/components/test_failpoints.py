"""A failpoint kills at the named place and hit, and nowhere else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from components.failpoints import failpoint
for number in range(1, 4):
    failpoint("first")
    print("first", number, flush=True)
    failpoint("second")
    print("second", number, flush=True)
"""


@pytest.mark.parametrize(
    ("armed", "lines", "code"),
    [
        ("first", 0, -signal.SIGKILL),
        ("second", 1, -signal.SIGKILL),
        ("second:3", 5, -signal.SIGKILL),
        ("second:4", 6, 0),
        ("third", 6, 0),
        ("", 6, 0),
    ],
)
def test_a_failpoint_kills_at_its_place_and_hit_only(armed: str, lines: int, code: int) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"WARDROUND_FAILPOINT": armed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (child.returncode, len(child.stdout.splitlines())) == (code, lines)
