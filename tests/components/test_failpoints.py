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
    assert outcome(armed) == (code, lines)


def test_a_place_that_is_armed_in_a_folder_kills_once(tmp_path: Path) -> None:
    assert outcome(str(tmp_path)) == (0, 6)
    (tmp_path / "second").touch()
    assert outcome(str(tmp_path)) == (-signal.SIGKILL, 1)
    assert outcome(str(tmp_path)) == (0, 6)


def test_it_kills_whom_the_file_names(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as other:
        (tmp_path / "second").write_text(f"{other.pid}\n")
        assert outcome(str(tmp_path)) == (0, 6)
        assert other.wait(60) == -signal.SIGKILL


def outcome(armed: str) -> tuple[int, int]:
    """Return how a process ends that passes two places three times, and how many it passed."""
    child = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"WARDROUND_FAILPOINT": armed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return child.returncode, len(child.stdout.splitlines())
