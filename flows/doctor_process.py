"""The doctor's short-lived child: a process like a site's, which times a batch and opens a study's data."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from flows.doctor_child import Asked, Opened, Timed
from flows.early import end_site_process, site_environment

TIMED_WITHIN_S = 300.0  # a GPU that does not answer; opening the data may take as long as it needs


def ask_child(folder: Path, site: str, study: Path | None) -> tuple[Timed, Opened | None]:
    """Start the child, and return what it found; that it died is a finding, too.

    Args:
        folder: The hospital's folder.
        site: Name of the site.
        study: A study file, whose data is opened.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.doctor_child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, process_group=0,
            env=site_environment(clean=True),
        )  # fmt: skip
        late = threading.Timer(TIMED_WITHIN_S, process.kill)
        late.start()
        try:
            asked = Asked(folder=str(folder.absolute()), site=site, study=str(study.absolute()) if study else None)
            return _converse(process, asked, late, said)
        finally:
            late.cancel()
            end_site_process(process)
            assert process.stdout is not None
            process.stdout.close()


def _converse(
    process: subprocess.Popen[bytes], asked: Asked, late: threading.Timer, said: IO[bytes]
) -> tuple[Timed, Opened | None]:
    """Ask, and read the answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(asked.model_dump_json().encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died; its answer tells
    line = process.stdout.readline()
    late.cancel()
    timed = Timed.model_validate_json(line) if line else Timed(problem=_why(process, said))
    if asked.study is None or not line:
        return timed, Opened(problem="not looked at: nothing can be computed here") if asked.study else None
    line = process.stdout.readline()
    return timed, Opened.model_validate_json(line) if line else Opened(problem=_why(process, said))


def _why(process: subprocess.Popen[bytes], said: IO[bytes]) -> str:
    """Say how the child ended."""
    code = process.wait()
    if code == -signal.SIGKILL:
        return f"its process was killed: out of memory, or no answer for {TIMED_WITHIN_S:.0f} s"
    said.seek(0)
    last = said.read().decode(errors="replace").strip().splitlines()[-1:]
    return f"its process ended with status {code}: {last[0][:300] if last else 'without a word'}"
