"""Memory and time of a command, as they were."""

import os
import sys
import time

import pytest

from benchmarks.commands import high_water_mark, run

HOLD = "import os, sys, time; held = b'x' * int(sys.argv[1]); time.sleep(0.5)"


@pytest.mark.skipif(not high_water_mark(), reason="there is no /proc to read memory from")
def test_memory_is_told_apart_between_a_process_and_those_below_it() -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}, '300000000'], check=True)"
    done = run([sys.executable, "-c", parent], variables=os.environ)
    assert done.peak_bytes < 100e6
    assert 300e6 < done.other_peak_bytes < 400e6
    assert 0.5 < done.seconds < 60
    assert abs(done.started - time.time()) < 120


def test_a_command_that_fails_tells_what_it_said() -> None:
    with pytest.raises(RuntimeError, match=r"ended with 3: .*out of luck"):
        run([sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"], variables=os.environ)
