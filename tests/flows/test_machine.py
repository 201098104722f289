"""What a machine has is found as CUDA and the kernel have it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.machine import gpus, held_memory, listed_gpus, machine_memory
from tests.end_to_end.ward import wait_until

HOLD = """
import os, sys
held = b"x" * 60_000_000
if len(sys.argv) > 1:
    os.fork()  # shares what is held
os.write(1, b"ready\\n")
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("GPU-1,MIG-2", ["GPU-1", "MIG-2"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", ["NoDevFiles"]),
    ],
)
def test_the_variable_decides_as_it_does_for_cuda(given: str, expected: list[str]) -> None:
    assert gpus({"CUDA_VISIBLE_DEVICES": given}) == expected


def test_the_driver_is_asked_where_the_variable_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\ntest \"$1\" = -L && echo 'GPU 0: NVIDIA H200 (UUID: GPU-a1-b2)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus({}) == ["GPU-a1-b2"]


def test_nothing_listed_is_no_gpu() -> None:
    assert listed_gpus("No devices were found\n") == []


def test_a_machine_has_memory() -> None:
    assert 1 << 28 < machine_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("arguments", [[], ["fork"]])
def test_what_a_group_holds_is_counted_once(arguments: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as process:
        assert process.stdout is not None
        for _ in range(len(arguments) + 1):
            assert process.stdout.readline() == b"ready\n"
        assert 60e6 < held_memory([process.pid]) < 100e6
    assert wait_until(lambda: held_memory([process.pid]) == 0, limit_s=30)
